// Recordings that are no WAV: the browser decodes them, whole, at their own rate where their header says it.

export const MOST_BYTES = 64 << 20; // of such a file: about an hour of MP3

export async function decode(file) {
  if (file.size > MOST_BYTES) {
    throw new Error(`it has more than ${MOST_BYTES >> 20} MB. Of this kind the browser can only read a whole file at once. As a WAV it may last for hours.`);
  }
  const bytes = await file.arrayBuffer();
  const wanted = rateOf(new DataView(bytes)) ?? 48000;
  for (const rate of new Set([wanted, 48000])) {
    try {
      const buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice(0));
      const channels = Array.from({ length: buffer.numberOfChannels }, (_, n) => buffer.getChannelData(n).slice());
      return { channels, rate };
    } catch {
      // the other rate
    }
  }
  throw new Error("this browser cannot decode it. WAV always works.");
}

// The rate in the header of a FLAC, an Ogg or an MP3; null where it is none, or damaged.
function rateOf(view) {
  const size = view.byteLength;
  const byte = (at) => (at < size ? view.getUint8(at) : 0);
  const text = (at, n) => String.fromCharCode(...Array.from({ length: n }, (_, i) => byte(at + i)));
  if (text(0, 4) === "fLaC") return ((byte(18) << 12) | (byte(19) << 4) | (byte(20) >> 4)) || null;
  if (text(0, 4) === "OggS") return text(29, 6) === "vorbis" ? view.getUint32(40, true) || null : null; // Opus is at 48 kHz
  let at = 0;
  if (text(0, 3) === "ID3") at = 10 + [6, 7, 8, 9].reduce((sum, i) => (sum << 7) | (byte(i) & 127), 0);
  if (byte(at) !== 0xff || (byte(at + 1) & 0xe0) !== 0xe0) return null;
  const rate = [44100, 48000, 32000][(byte(at + 2) >> 2) & 3];
  const version = (byte(at + 1) >> 3) & 3; // 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
  return rate ? rate / { 3: 1, 2: 2, 0: 4 }[version] || null : null;
}
