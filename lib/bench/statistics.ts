/** The value that `share` of the values don't exceed; NaN of none. */
export function quantile(values: Iterable<number>, share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}

export const median = (values: Iterable<number>): number => quantile(values, 0.5);
