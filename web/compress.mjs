/**
 * Brotli for the site: `node web/compress.mjs FILE...`; build.py calls it.
 *
 * Does: write FILE.br beside each file.
 * Does not: promise equal bytes on every machine: what it writes is never hashed, only what a browser unpacks from it.
 */

import { readFile, rename, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { brotliCompress, constants } from "node:zlib";

const compress = promisify(brotliCompress);
const LARGE = 4 << 20; // bytes; the best quality takes half a minute for the interpreter, to save a tenth of it

await Promise.all(
  process.argv.slice(2).map(async (file) => {
    const data = await readFile(file);
    const params = {
      [constants.BROTLI_PARAM_QUALITY]: data.length > LARGE ? 9 : constants.BROTLI_MAX_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: data.length,
    };
    await writeFile(`${file}.new`, await compress(data, { params }));
    await rename(`${file}.new`, `${file}.br`); // never half of one
  }),
);
