"use strict";

// The layout is that of `pack.py`; the names are those of `payload.py`.

const FLAGS = [
  {
    bit: 1,
    name: "wrong reason",
    long: "right for the wrong reason",
    what: "The executor's answer is right, and the task's oracle says that the reasoning is not faithful.",
  },
  {
    bit: 2,
    name: "useless",
    long: "high grade but useless",
    what: "The reward model's score is 0.8 or more, and the uplift is 0 or less; where both were measured.",
  },
  {
    bit: 4,
    name: "leak",
    long: "leaked answer",
    what:
      'The reasoning gives the final answer away: it announces it ("answer is", "####", \\boxed, "answer:") and ' +
      "the right answer follows on the line, or its last statement holds the answer and no other number. A last step " +
      '"9 * 2 = 8" is no leak. Where a program is asked for: the reasoning holds one.',
  },
  {
    bit: 8,
    name: "failure",
    long: "infrastructure failure",
    what: "An answer never came or could not be judged: neither right nor wrong.",
  },
  {bit: 16, name: "malformed", long: "malformed", what: "No closing tag, nothing in it, or a second opening tag."},
  {bit: 32, name: "not counted", long: "not counted", what: "Left out of its group; nothing was learnt from it."},
];
const VERDICTS = {o: "right", w: "wrong", f: "failed"};

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text),
    bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function gunzip(bytes) {
  if (!("DecompressionStream" in window)) return inflateGzip(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unpack(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  for (const [name, {offset, length: count, width}] of Object.entries(data.columns)) {
    const kind = width === 4 ? Float32Array : Float64Array;
    data.traces[name] = new kind(bytes.buffer, bytes.byteOffset + 4 + length + offset, count);
  }
  return data;
}

/** Data, with what follows from it: each trace's group and rank in it, and each group's traces by rank. */
async function loadData(text) {
  const data = unpack(await gunzip(bytesOfBase64(text.trim())));
  const {groups, traces} = data,
    count = traces.trace.length;
  data.groupOf = new Int32Array(count);
  data.rankOf = new Int32Array(count);
  data.ranked = groups.first.map((first, group) => {
    const members = Array.from({length: groups.size[group]}, (_, i) => first + i);
    members.sort((a, b) => traces.reward[b] - traces.reward[a] || a - b);
    members.forEach((trace, rank) => {
      data.groupOf[trace] = group;
      data.rankOf[trace] = rank + 1;
    });
    return members;
  });
  data.count = count;
  data.text = place => (place < 0 ? null : data.strings[place]);
  return data;
}
