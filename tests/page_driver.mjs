// Runs parts of the page's engine in node: reads a job (JSON) and files of float32, writes files of float32 and an answer (JSON).
// node page_driver.mjs JOB.json, whose `program` is the text of the engine as the page holds it, without its worker's end.
import { readFileSync, writeFileSync } from "node:fs";
import { performance } from "node:perf_hooks";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const floats = (path) => {
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
};
const names = "Resampler, Detector, Bands, Network, Model, Stream, Recording, refusal, places, moment, openWav, blocksOf";
const parts = new Function(`${readFileSync(job.program, "utf8")}\nreturn { ${names} };`)();
const { Resampler, Detector, Model, Stream, Recording, openWav, blocksOf } = parts;
const k = job.about.constants;

const pieces = (x, cuts) => [0, ...cuts].map((from, n) => x.subarray(from, cuts[n] ?? x.length));
const plain = (events) => events.map(({ shown, log, whole, ...event }) => event);

const ACTIONS = {
  resample({ x, cuts, rate }) {
    const resampler = new Resampler(k.speech, k.features.SAMPLE_RATE, rate);
    const found = [...pieces(floats(x), cuts).map((piece) => resampler.feed(piece).slice()), resampler.end()];
    return { samples: found.flatMap((part) => [...part]) };
  },
  detect({ x, cuts }) {
    const detector = new Detector(k.speech);
    const runs = [...pieces(floats(x), cuts).flatMap((piece) => detector.feed(piece)), ...detector.end()];
    return { runs: runs.map((run) => [run.start, run.x.length]) };
  },
  network({ x }) {
    const model = new Model(job.about, floats(job.numbers).buffer);
    const stream = new Stream(model, model.rate, 1);
    stream.x.push(floats(x));
    stream.count = stream.x.length;
    stream.frames();
    const { S, X } = stream.part(0, stream.count);
    const alone = model.bands.of(floats(x), null);
    const { emotion, gender, attention } = model.network.run(X);
    return { S: [...S], alone: [...alone], X: [...X], emotion: [...emotion], gender: [...gender], attention: [...(attention ?? [])] };
  },
  stream({ x, cuts, rate, every, adapt }) {
    const model = new Model(job.about, floats(job.numbers).buffer);
    const stream = new Stream(model, rate, every, adapt);
    const found = [...pieces(floats(x), cuts).flatMap((piece) => stream.feed(piece)), ...stream.end()];
    return { events: plain(found), held: [stream.x.store.length, stream.P.store.length, stream.runs.length] };
  },
  async wav({ path }) {
    const file = new Blob([readFileSync(path)]);
    const wav = await openWav(file, k.features);
    const found = [];
    for await (const block of blocksOf(file, wav, k.features)) found.push(...block);
    return { rate: wav.rate, samples: found };
  },
  async file({ path }) {
    const model = new Model(job.about, floats(job.numbers).buffer);
    const file = new Blob([readFileSync(path)]);
    const wav = await openWav(file, k.features);
    const recording = new Recording(model, wav.rate);
    const found = [];
    for await (const block of blocksOf(file, wav, k.features)) found.push(...recording.feed(block));
    return { events: plain([...found, ...recording.end()]) };
  },
  time({ x, times }) {
    const model = new Model(job.about, floats(job.numbers).buffer);
    const X = floats(x);
    const found = [];
    for (let n = 0; n < times; n++) {
      const start = performance.now();
      model.network.run(X);
      found.push(performance.now() - start);
    }
    return { milliseconds: found };
  },
};

const answers = [];
for (const one of job.actions) {
  try {
    answers.push(await ACTIONS[one.do](one));
  } catch (error) {
    answers.push({ error: error.message });
  }
}
writeFileSync(job.out, JSON.stringify(answers));
