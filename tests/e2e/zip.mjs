// Just enough of ZIP to read what was downloaded: by its central directory, and nothing that is compressed.

import assert from "node:assert/strict";
import * as zlib from "node:zlib";

/** The files of an archive: `[{name, content}]`. */
export function unzip(zip) {
  const end = zip.lastIndexOf("PK\x05\x06", undefined, "latin1");
  assert.ok(end >= 0, `no zip: ${zip.length} bytes`);
  const files = [];
  let at = zip.readUInt32LE(end + 16);
  for (let count = zip.readUInt16LE(end + 10); count > 0; count--) {
    assert.equal(zip.readUInt32LE(at), 0x02014b50);
    assert.equal(zip.readUInt16LE(at + 10), 0, "not compressed");
    const [size, nameLength, extra, comment] = [zip.readUInt32LE(at + 24), ...[28, 30, 32].map((field) => zip.readUInt16LE(at + field))];
    const local = zip.readUInt32LE(at + 42);
    const begin = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
    const content = zip.subarray(begin, begin + size);
    // Not in every Node that runs these tests.
    if (zlib.crc32) assert.equal(zlib.crc32(content), zip.readUInt32LE(at + 16), "its checksum");
    files.push({ name: zip.toString("utf8", at + 46, at + 46 + nameLength), content });
    at += 46 + nameLength + extra + comment;
  }
  return files;
}


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
    const common = [[2, 20], [2, 0], [2, 0], [2, 0], [2, 0x21], [4, zlib.crc32(content)], [4, content.length], [4, content.length], [2, name.length], [2, 0]];
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
