import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // the addon's life cycle is tested in processes of its own
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
