// Numbers that wait: appended at the end, taken off the front. What it holds does not grow with what has gone through.
export class Held {
  constructor(Kind) {
    this.store = new Kind(1 << 12);
    this.from = this.to = 0;
  }

  get length() {
    return this.to - this.from;
  }

  push(x) {
    const held = this.length;
    if (this.to + x.length > this.store.length) {
      let size = this.store.length;
      while (held + x.length > size / 2) size *= 2; // half of it free, so that moves are rare
      const next = size === this.store.length ? this.store : new this.store.constructor(size);
      next.set(this.view(0, held));
      [this.store, this.from, this.to] = [next, 0, held];
    }
    this.store.set(x, this.to);
    this.to += x.length;
  }

  drop(n) {
    this.from += n;
  }

  // From a to b, until the next push.
  view(a, b) {
    return this.store.subarray(this.from + a, this.from + b);
  }
}
