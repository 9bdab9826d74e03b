// The microphone: asked for on the button only, with the browser's own processing off unless it is wanted, and every refusal in words.

const PATIENCE = 10000; // milliseconds after which the page says where to look for the browser's question
const BLOCK = 0.08; // seconds that are handed on together

export const PROCESSING = { echoCancellation: "echo cancelling", noiseSuppression: "noise suppression", autoGainControl: "gain control" };

const WORDS = {
  NotAllowedError:
    "The browser did not give the microphone. Allow it beside the address of this page, and in the settings of the system, then start again.",
  NotFoundError: "There is no microphone. Connect one, then start again.",
  NotReadableError: "The microphone cannot be used now. Another program may hold it: close that, then start again.",
  SecurityError: "The browser's settings forbid the microphone here. Allow it for this page, then start again.",
};
WORDS.AbortError = WORDS.NotReadableError;
WORDS.DevicesNotFoundError = WORDS.NotFoundError;

// Why a page cannot record at all, or "".
export function unable() {
  if (!window.isSecureContext) {
    return "Browsers give the microphone only to pages from https, from localhost, or from a file. Open this page in one of these ways. Recordings can be dropped here all the same.";
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioContext || !("audioWorklet" in AudioContext.prototype)) {
    return "This browser cannot record. A newer one can. Recordings can be dropped here all the same.";
  }
  return "";
}

export class Microphone {
  // worklet: the text of the audio thread's program; told: {waiting, gone, muted}, functions that are called when that happens.
  constructor(worklet, told) {
    Object.assign(this, { worklet, told, context: null, stream: null, source: null, tap: null, round: 0 });
  }

  // Ask for it, and begin. Returns {rate, port, settings}, or null where it was stopped meanwhile; throws an Error with words for a person.
  async start(wanted) {
    const round = ++this.round;
    const context = (this.context = new AudioContext()); // at the machine's own rate: others are refused by some browsers
    try {
      const stream = await this.ask(wanted);
      if (round !== this.round) return this.release(stream);
      // not a blob: of a page from a disk, Chromium does not take one here
      await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(this.worklet)}`);
      await context.resume();
      if (round !== this.round) return this.release(stream);
      const { sampleRate } = context;
      const processorOptions = { size: Math.round(BLOCK * sampleRate) };
      this.tap = new AudioWorkletNode(context, "tap", { numberOfInputs: 1, numberOfOutputs: 0, processorOptions });
      const { port1, port2 } = new MessageChannel();
      this.tap.port.postMessage({ to: port1 }, [port1]);
      this.connect(stream);
      return { rate: sampleRate, port: port2, settings: this.settings() };
    } catch (error) {
      if (round !== this.round) return null;
      this.close();
      throw new Error(WORDS[error.name] ?? `The microphone does not work here (${error.message}).`);
    }
  }

  async ask({ device, processing }) {
    const timer = setTimeout(() => this.told.waiting(), PATIENCE); // some browsers never settle
    const audio = { ...processing, channelCount: { ideal: 1 }, ...(device ? { deviceId: { exact: device } } : {}) };
    try {
      return await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      const gone = device && ["OverconstrainedError", "NotFoundError"].includes(error.name);
      if (gone) return await navigator.mediaDevices.getUserMedia({ audio: { ...processing, channelCount: { ideal: 1 } } });
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  // Another device, or another processing, while it runs. Returns the settings.
  async change(wanted) {
    const round = this.round;
    const stream = await this.ask(wanted).catch((error) => {
      throw new Error(WORDS[error.name] ?? error.message);
    });
    if (round !== this.round || !this.tap) return this.release(stream);
    this.source.disconnect();
    this.release(this.stream);
    this.connect(stream);
    return this.settings();
  }

  connect(stream) {
    this.stream = stream;
    this.source = this.context.createMediaStreamSource(stream);
    this.source.connect(this.tap);
    const [track] = stream.getAudioTracks();
    track.onended = () => this.stream === stream && this.told.gone();
    track.onmute = () => this.stream === stream && this.told.muted(true);
    track.onunmute = () => this.stream === stream && this.told.muted(false);
  }

  // What the browser says that it does.
  settings() {
    const [track] = this.stream.getAudioTracks();
    const { sampleRate, deviceId, ...found } = track.getSettings();
    const processing = Object.fromEntries(Object.keys(PROCESSING).map((name) => [name, found[name] ?? null]));
    return { device: track.label, device_id: deviceId, rate: this.context.sampleRate, ...processing };
  }

  pause(paused) {
    this.tap?.port.postMessage({ paused });
  }

  // No more sound. The engine is told by the tap that this was all.
  stop() {
    this.tap?.port.postMessage({ stop: true });
    this.release(this.stream);
  }

  close() {
    this.round++;
    this.release(this.stream);
    this.context?.close();
    this.context = this.stream = this.source = this.tap = null;
  }

  release(stream) {
    for (const track of stream?.getTracks() ?? []) {
      track.onended = track.onmute = track.onunmute = null;
      track.stop();
    }
    return null;
  }
}
