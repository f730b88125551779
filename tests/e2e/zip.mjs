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
