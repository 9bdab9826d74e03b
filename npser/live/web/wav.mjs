// WAV files, read in slices: hours of them take no memory, and the numbers are those of the file.

const AT_ONCE = 1 << 16; // frames of a slice

// How the samples of a wav lie in the file: rate, channels, format, from and to. null where the file is no wav, an Error where it is one
// that cannot be read.
export async function openWav(file, k) {
  const bytes = async (from, to) => new DataView(await file.slice(from, to).arrayBuffer());
  const text = (view, at) => String.fromCharCode(...[0, 1, 2, 3].map((n) => view.getUint8(at + n)));
  const head = await bytes(0, 12);
  if (head.byteLength < 12 || !["RIFF", "RIFX", "RF64"].includes(text(head, 0)) || text(head, 8) !== "WAVE") return null;
  const little = text(head, 0) !== "RIFX";
  let form = null;
  let long = null; // the length of more than 4 GB
  for (let at = 12; at + 8 <= file.size; ) {
    const chunk = await bytes(at, at + 8);
    const name = text(chunk, 0);
    const size = chunk.getUint32(4, little);
    if (name === "ds64") long = Number((await bytes(at + 16, at + 24)).getBigUint64(0, true));
    if (name === "fmt ") form = formOf(await bytes(at + 8, at + 8 + Math.min(size, 40)), little, k);
    if (name === "data") {
      if (!form) throw new Error("its header does not say how the samples are written.");
      const unknown = size === 0xffffffff || size === 0; // written to a pipe
      const to = Math.min(file.size, unknown ? (long === null ? file.size : at + 8 + long) : at + 8 + size);
      return { ...form, little, from: at + 8, to };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("it ends before its samples begin.");
}

function formOf(view, little, k) {
  if (view.byteLength < 16) throw new Error("its header is damaged.");
  let code = view.getUint16(0, little);
  const channels = view.getUint16(2, little);
  const rate = view.getUint32(4, little);
  const bits = view.getUint16(14, little);
  if (code === 0xfffe && view.byteLength >= 26) code = view.getUint16(24, little); // the long form of the header
  const read = READERS[`${code} ${bits}`];
  if (!read) throw new Error(`its samples are of kind ${code} with ${bits} bits. PCM of 8, 16, 24 and 32 bits and floats can be read.`);
  if (rate < k.RATES[0] || rate > k.RATES[1]) throw new Error(`its rate is ${rate} Hz. From ${k.RATES[0]} to ${k.RATES[1]} Hz can be read.`);
  if (channels < 1 || channels > k.MOST_CHANNELS) throw new Error(`it has ${channels} channels. Up to ${k.MOST_CHANNELS} can be read.`);
  return { rate, channels, width: bits / 8, read };
}

// Kind and bits of a sample -> its value, full scale 1.
const READERS = {
  "1 8": (view, at) => (view.getUint8(at) - 128) / 128,
  "1 16": (view, at, little) => view.getInt16(at, little) / 32768,
  "1 24": (view, at, little) => {
    const low = little ? at : at + 2;
    return ((view.getInt8(little ? at + 2 : at) << 16) | (view.getUint8(at + 1) << 8) | view.getUint8(low)) / 8388608;
  },
  "1 32": (view, at, little) => view.getInt32(at, little) / 2147483648,
  "3 32": (view, at, little) => view.getFloat32(at, little),
  "3 64": (view, at, little) => view.getFloat64(at, little),
};

// The samples of a wav, block by block, channels averaged.
export async function* blocksOf(file, { channels, width, read, little, from, to }, k) {
  const frame = channels * width;
  for (let at = from; to - at >= frame; at += AT_ONCE * frame) {
    const view = new DataView(await file.slice(at, Math.min(to, at + AT_ONCE * frame)).arrayBuffer());
    const out = new Float32Array(Math.floor(view.byteLength / frame));
    for (let n = 0; n < out.length; n++) {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += read(view, n * frame + c * width, little);
      out[n] = sum / channels;
    }
    if (!out.every((x) => Math.abs(x) <= k.LOUDEST)) throw new Error("it holds samples that are not finite.");
    yield out;
  }
}

// 16-bit samples of one channel as a wav.
export function wavOf(parts, rate) {
  const size = parts.reduce((sum, part) => sum + 2 * part.length, 0);
  const view = new DataView(new ArrayBuffer(44));
  [..."RIFF"].forEach((letter, n) => view.setUint8(n, letter.charCodeAt(0)));
  view.setUint32(4, 36 + size, true);
  [..."WAVEfmt "].forEach((letter, n) => view.setUint8(8 + n, letter.charCodeAt(0)));
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  [..."data"].forEach((letter, n) => view.setUint8(36 + n, letter.charCodeAt(0)));
  view.setUint32(40, size, true);
  return new Blob([view, ...parts], { type: "audio/wav" });
}
