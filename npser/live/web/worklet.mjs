// The microphone's end, in the audio thread: it only collects samples, and hands them to the engine by a port of its own, so that a
// busy or hidden page does not hold them up.
class Tap extends AudioWorkletProcessor {
  constructor({ processorOptions: { size } }) {
    super();
    this.block = new Float32Array(size);
    this.filled = 0;
    this.to = null;
    this.paused = this.stopped = false;
    this.port.onmessage = ({ data }) => {
      if (data.to) this.to = data.to;
      if ("paused" in data) this.paused = data.paused;
      if (data.stop) this.stop();
    };
  }

  process([channels]) {
    if (this.paused || this.stopped || channels.length === 0) return !this.stopped;
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.filled++] = sum / channels.length;
      if (this.filled === this.block.length) this.send();
    }
    return true;
  }

  send() {
    const x = this.block.slice(0, this.filled);
    this.filled = 0;
    this.to?.postMessage({ x, time: Date.now() }, [x.buffer]);
  }

  stop() {
    if (this.stopped) return;
    this.stopped = true;
    this.send();
    this.to?.postMessage({ end: true });
  }
}

registerProcessor("tap", Tap);
