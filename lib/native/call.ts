// Calls into the addon whose errors reach the user as LowrankError.
import { fromNative } from '../errors.js';

export async function call<T>(body: () => T | Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw fromNative(error);
  }
}

export function callSync<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw fromNative(error);
  }
}
