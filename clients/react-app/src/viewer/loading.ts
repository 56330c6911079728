/** Loads a series' images around the one in sight, a few at a time, so that what is scrolled to is soon there. */
import { imageLoader } from "./engine";

export interface Loading {
  done: number;
  failed: number;
  total: number;
}

const AT_ONCE = 4;

export class SeriesLoader {
  private readonly waiting: Set<number>;
  private running = 0;
  private done = 0;
  private failed = 0;
  private isStopped = false;

  constructor(
    private readonly imageIds: readonly string[],
    private focus: number,
    private readonly onChange: (state: Loading) => void,
  ) {
    this.waiting = new Set(imageIds.keys());
    for (let slot = 0; slot < AT_ONCE; slot += 1) this.next();
  }

  /** The image in sight is now ``index``. */
  look(index: number): void {
    this.focus = index;
  }

  stop(): void {
    this.isStopped = true;
  }

  private next(): void {
    const index = this.isStopped ? undefined : this.nearest();
    if (index === undefined) return;
    this.waiting.delete(index);
    this.running += 1;
    imageLoader
      .loadAndCacheImage(this.imageIds[index] as string)
      .then(
        () => (this.done += 1),
        () => (this.failed += 1),
      )
      .finally(() => {
        this.running -= 1;
        if (this.isStopped) return;
        this.onChange({ done: this.done, failed: this.failed, total: this.imageIds.length });
        this.next();
      });
  }

  private nearest(): number | undefined {
    let best: number | undefined;
    for (const index of this.waiting) {
      if (best === undefined || Math.abs(index - this.focus) < Math.abs(best - this.focus)) best = index;
    }
    return best;
  }
}
