// The live feed, kept up: where it breaks it is opened again, after 1 s, then 2, 4, 8, at most 15. The page is told of
// every change of the link, and of the second in which the next attempt will be made.
import { call, events } from "./api.js";

const STALL_MS = 8000; // a message comes every second while something happens, and every 5 s while nothing does
const BACK_OFF_S = [1, 2, 4, 8, 15];

export class Feed {
  constructor({ onHello, onTick, onLink }) {
    this.onHello = onHello;
    this.onTick = onTick;
    this.onLink = onLink;
    this.failures = 0;
    this.wake = () => {};
    addEventListener("online", () => this.retry());
  }

  retry() {
    this.wake();
  }

  async run() {
    for (;;) {
      let reason = "the server ended the stream";
      try {
        await this.follow();
      } catch (error) {
        reason = error.message;
      }
      await this.pause(reason);
    }
  }

  async follow() {
    this.onLink({ state: "connecting", failures: this.failures });
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(new Error(`nothing came for ${STALL_MS / 1000} s`)), STALL_MS);
    try {
      const reply = await call("v1/paceline/live", { signal: abort.signal });
      clearTimeout(timer);
      for await (const message of events(reply, STALL_MS)) {
        if (message.type === "hello") {
          this.failures = 0;
          this.onLink({ state: "open" });
          this.onHello(message);
        } else {
          this.onTick(message);
        }
      }
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  async pause(reason) {
    const wait = BACK_OFF_S[Math.min(this.failures, BACK_OFF_S.length - 1)];
    this.failures += 1;
    let woken = false;
    for (let left = wait; left > 0 && !woken; left -= 1) {
      this.onLink({ state: "lost", reason, inS: left });
      woken = await new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), 1000);
        this.wake = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
    }
    this.wake = () => {};
  }
}
