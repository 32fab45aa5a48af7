import { basename } from 'node:path';
export const handler = async (req) => ({ body: { esm: basename(import.meta.url), name: (await import('./lib/name.mjs')).default } });
