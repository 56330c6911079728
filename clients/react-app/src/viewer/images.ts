import type { Platform } from "../api/platform";
import type { ImageLink } from "../api/types";

/** Less than the ten minutes for which links to a bucket's files are good; others are good for longer. */
const KEEP_MS = 8 * 60_000;

let last: { of: string; images: Promise<ImageLink[]>; atMs: number } | null = null;

/** The images of a series. Those asked for last are remembered, unless ``isAnew``; not a failure. */
export function imagesOf(platform: Platform, studyId: string, seriesId: string, isAnew = false): Promise<ImageLink[]> {
  const of = `${studyId}/${seriesId}`;
  if (!isAnew && last?.of === of && Date.now() - last.atMs < KEEP_MS) return last.images;
  const images = platform.images(studyId, seriesId);
  const asked = { of, images, atMs: Date.now() };
  last = asked;
  images.catch(() => {
    if (last === asked) last = null;
  });
  return images;
}
