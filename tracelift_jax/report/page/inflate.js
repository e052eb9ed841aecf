"use strict";

// RFC 1951, for browsers without DecompressionStream (before 2023).

function huffman(lengths) {
  const counts = new Uint16Array(16),
    symbols = new Uint16Array(lengths.length),
    offsets = new Uint16Array(16);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  for (let length = 1; length < 15; length++) offsets[length + 1] = offsets[length] + counts[length];
  lengths.forEach((length, symbol) => {
    if (length) symbols[offsets[length]++] = symbol;
  });
  return {counts, symbols};
}

const LENGTH_BASE = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [
  1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
  8193, 12289, 16385, 24577,
];
const DISTANCE_BITS = DISTANCE_BASE.map((_, code) => Math.max(0, (code >> 1) - 1));
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

class BitReader {
  constructor(bytes, at) {
    this.bytes = bytes;
    this.at = at;
    this.held = 0;
    this.count = 0;
  }

  bits(wanted) {
    while (this.count < wanted) {
      this.held |= this.bytes[this.at++] << this.count;
      this.count += 8;
    }
    const value = this.held & ((1 << wanted) - 1);
    this.held >>>= wanted;
    this.count -= wanted;
    return value;
  }

  symbol({counts, symbols}) {
    let code = 0,
      first = 0,
      index = 0;
    for (let length = 1; length < 16; length++) {
      code |= this.bits(1);
      if (code - counts[length] < first) return symbols[index + code - first];
      index += counts[length];
      first = (first + counts[length]) << 1;
      code <<= 1;
    }
    throw new Error("the page's data is damaged");
  }

  align() {
    this.held = this.count = 0;
  }
}

function codeTables(reader, kind) {
  if (kind === 1) {
    const lengths = Array.from({length: 288}, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
    return [huffman(lengths), huffman(new Array(30).fill(5))];
  }
  const literals = reader.bits(5) + 257,
    distances = reader.bits(5) + 1,
    codes = reader.bits(4) + 4;
  const short = new Array(19).fill(0);
  for (let i = 0; i < codes; i++) short[CODE_ORDER[i]] = reader.bits(3);
  const table = huffman(short),
    lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = reader.symbol(table);
    if (symbol < 16) lengths.push(symbol);
    else {
      const value = symbol === 16 ? lengths[lengths.length - 1] : 0;
      const repeats = symbol === 16 ? 3 + reader.bits(2) : symbol === 17 ? 3 + reader.bits(3) : 11 + reader.bits(7);
      for (let i = 0; i < repeats; i++) lengths.push(value);
    }
  }
  return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
}

/** The bytes behind a gzip file without extra header fields. */
function inflateGzip(bytes) {
  const size = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4, 4).getUint32(0, true);
  const out = new Uint8Array(size),
    reader = new BitReader(bytes, 10);
  let to = 0,
    last = 0;
  while (!last) {
    last = reader.bits(1);
    const kind = reader.bits(2);
    if (kind === 0) {
      reader.align();
      const length = reader.bits(16);
      reader.bits(16);
      reader.align();
      out.set(bytes.subarray(reader.at, reader.at + length), to);
      reader.at += length;
      to += length;
      continue;
    }
    const [literals, distances] = codeTables(reader, kind);
    for (;;) {
      const symbol = reader.symbol(literals);
      if (symbol < 256) out[to++] = symbol;
      else if (symbol === 256) break;
      else {
        const length = LENGTH_BASE[symbol - 257] + reader.bits(LENGTH_BITS[symbol - 257]);
        const code = reader.symbol(distances),
          back = DISTANCE_BASE[code] + reader.bits(DISTANCE_BITS[code]);
        for (let i = 0; i < length; i++, to++) out[to] = out[to - back];
      }
    }
  }
  return out;
}
