declare module 'asciichart' {
  /** Draws a line chart of the values as text. */
  export function plot(values: number[], options?: { height?: number }): string;
  const asciichart: { plot: typeof plot };
  export default asciichart;
}
