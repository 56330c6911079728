/**
 * Loads a series' images around the one in sight, a few at a time, so that what is scrolled to is soon there. The first
 * one alone: nothing else keeps the page from showing it.
 */
import { imageLoader } from "./engine";
import { isCut } from "./frames";

export interface Loading {
  done: number;
  failed: number;
  /** Of those that are there: their files end before their pixels do. */
  cut: number;
  total: number;
}

const AT_ONCE = 4;
/** How often is told how far it is: each time the page is made anew, which costs more than the image did. */
const TELL_EVERY_MS = 100;

export class SeriesLoader {
  private readonly waiting: Set<number>;
  /** Failed once: the network may have changed, which breaks off what is under way (api/http.ts). */
  private readonly again = new Set<number>();
  private running = 0;
  private done = 0;
  private failed = 0;
  private cut = 0;
  private isStopped = false;
  private toldMs = 0;

  constructor(
    private readonly imageIds: readonly string[],
    private focus: number,
    private readonly onChange: (state: Loading) => void,
  ) {
    this.waiting = new Set(imageIds.keys());
    this.next();
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
    const imageId = this.imageIds[index] as string;
    imageLoader
      .loadAndCacheImage(imageId)
      .then(
        (image) => {
          // Of what it can't make out the decoder of JPEG 2000 makes an image without a pixel.
          if (!image.width || !image.height) {
            this.failed += 1;
            return;
          }
          this.done += 1;
          if (isCut(imageId)) this.cut += 1;
        },
        () => {
          if (this.again.has(index)) this.failed += 1;
          else this.waiting.add(index);
          this.again.add(index);
        },
      )
      .finally(() => {
        this.running -= 1;
        if (this.isStopped) return;
        this.tell();
        while (this.running < AT_ONCE && this.waiting.size > 0) this.next();
      });
  }

  private tell(): void {
    const [done, failed, total] = [this.done, this.failed, this.imageIds.length];
    if (done + failed < total && performance.now() - this.toldMs < TELL_EVERY_MS) return;
    this.toldMs = performance.now();
    this.onChange({ done, failed, cut: this.cut, total });
  }

  private nearest(): number | undefined {
    let best: number | undefined;
    for (const index of this.waiting) {
      if (best === undefined || Math.abs(index - this.focus) < Math.abs(best - this.focus)) best = index;
    }
    return best;
  }
}
