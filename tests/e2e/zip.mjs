// A zip archive of some texts, as they are.

import { crc32 } from "node:zlib";

const record = (signature, ...fields) => {
  const buffer = Buffer.alloc(4 + fields.reduce((bytes, [size]) => bytes + size, 0));
  let at = buffer.writeUInt32LE(signature);
  for (const [size, value] of fields) at = buffer.writeUIntLE(value, at, size);
  return buffer;
};

/** `files`: texts by their paths. */
export function zip(files) {
  const [parts, directory] = [[], []];
  let at = 0;
  for (const [path, text] of Object.entries(files)) {
    const [name, content] = [Buffer.from(path), Buffer.from(text)];
    const common = [[2, 20], [2, 0], [2, 0], [2, 0], [2, 0x21], [4, crc32(content)], [4, content.length], [4, content.length], [2, name.length], [2, 0]];
    const local = Buffer.concat([record(0x04034b50, ...common), name, content]);
    directory.push(record(0x02014b50, [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    parts.push(local);
    at += local.length;
  }
  const central = Buffer.concat(directory);
  const count = Object.keys(files).length;
  const end = record(0x06054b50, [2, 0], [2, 0], [2, count], [2, count], [4, central.length], [4, at], [2, 0]);
  return Buffer.concat([...parts, central, end]);
}
