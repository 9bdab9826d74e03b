/* A live session of npser's server that outlives its connection: no second of the sound is lost, none is told twice.

    const session = new Session("ws://127.0.0.1:8080/v1/stream", context.sampleRate, (message) => console.log(message));
    session.send(block);   // Float32Array of one channel, as an AudioWorklet has it
    await session.end();   // all is told

Times are seconds since the first block. A server that comes back begins anew, and is sent what it had not finished, KEPT
seconds of it at most; of older sound, {type: "lost", start, end} tells where it lies. */

export const KEPT = 4.5; // seconds: a server takes no more than 5 before they can have been spoken
const LATE = 1.5; // seconds after which a server has told that speech begins
const AGAIN = 1; // seconds from one attempt to the next
const LOST = [1001, 1006, 1011]; // codes: the server stops, the connection is gone, the server failed

export class Session {
    constructor(url, rate, tell, token = "") {
        this.url = url;
        this.rate = rate;
        this.tell = tell;
        this.protocols = token ? ["npser.v1", `npser.token.${token}`] : ["npser.v1"];
        this.kept = []; // blocks
        this.first = this.count = 0; // samples before those that are kept, and in all
        this.offset = 0; // samples before the session of the server
        this.finished = 0; // s: all before is told
        this.told = 0; // s: end of the last measurement
        this.speaking = this.open = this.ending = false;
        this.over = new Promise((resolve) => { this.finish = resolve; });
        this.connect();
    }

    send(block) {
        this.kept.push(block);
        this.count += block.length;
        this.forget(this.count - KEPT * this.rate);
        if (this.open) this.socket.send(block);
    }

    end() {
        this.ending = true;
        if (this.open) this.socket.send('{"type": "session.close"}');
        return this.over; // the code of the close
    }

    connect() {
        this.socket = new WebSocket(this.url, this.protocols);
        this.socket.onmessage = ({data}) => this.hear(JSON.parse(data));
        this.socket.onclose = ({code}) => {
            this.open = false;
            if (LOST.includes(code)) setTimeout(() => this.connect(), 1000 * AGAIN);
            else this.finish(code);
        };
    }

    begin() {
        this.forget(this.finished * this.rate);
        this.offset = this.first;
        const start = Math.max(this.finished, this.told), end = this.first / this.rate;
        if (start < end) {
            if (this.speaking) this.tell({type: "speech.end", end: start}); // what follows is told by itself
            this.speaking = false;
            this.tell({type: "lost", start, end});
        }
        this.socket.send(JSON.stringify({type: "session.update", rate: this.rate, format: "f32le"}));
        for (const block of this.kept) this.socket.send(block);
        this.open = true;
        if (this.ending) this.end();
    }

    hear(message) {
        for (const name of ["start", "end", "computed"]) if (name in message) message[name] += this.offset / this.rate;
        if (message.type === "session.created") this.begin();
        if (message.type === "progress" && !this.speaking) this.finished = Math.max(this.finished, message.computed - LATE);
        if (message.type === "speech.end") this.finished = message.end;
        const again = message.type === "measurement" ? !message.final && message.end <= this.told
            : message.type === "speech.start" && this.speaking;
        if (message.type === "measurement") this.told = Math.max(this.told, message.end);
        if (message.type.startsWith("speech.")) this.speaking = message.type === "speech.start";
        if (!again) this.tell(message);
    }

    /* What lies before a sample. */
    forget(sample) {
        for (let over; (over = Math.floor(sample - this.first)) > 0 && this.kept.length; ) {
            const block = this.kept[0].subarray(over);
            this.first += this.kept[0].length - block.length;
            if (block.length) this.kept[0] = block;
            else this.kept.shift();
        }
    }
}
