// Text from token ids that arrive one by one.
import type { Tokenizer } from './tokenizer.js';

/**
 * Turns a growing list of token ids into text, piece by piece: a piece is held back while it ends
 * inside a UTF-8 character. The pieces joined are the decoded whole.
 */
export class TextStream {
  private readonly ids: number[] = [];
  private start = 0; // first id of the window that is decoded again
  private read = 0; // ids whose text has been returned

  constructor(
    private readonly tokenizer: Pick<Tokenizer, 'decode'>,
    private readonly options: { skipSpecialTokens?: boolean } = { skipSpecialTokens: true },
  ) {}

  async push(id: number): Promise<string> {
    this.ids.push(id);
    return this.advance(false);
  }

  /** What was held back (an unfinished character shows as U+FFFD). */
  async end(): Promise<string> {
    return this.advance(true);
  }

  private async advance(last: boolean): Promise<string> {
    // The ids before `read` are decoded with the new ones, because a decoder may strip a leading space.
    const before = await this.tokenizer.decode(this.ids.slice(this.start, this.read), this.options);
    const now = await this.tokenizer.decode(this.ids.slice(this.start), this.options);
    if (now.length <= before.length || (!last && now.endsWith('\ufffd'))) return '';
    this.start = this.read;
    this.read = this.ids.length;
    return now.slice(before.length);
  }
}
