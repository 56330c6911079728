/** A Segmentation as coloured labels over the images that it was made from. */
import { Enums, metaData, viewport } from "./engine";
import type { Segmentation, SegmentFrame, Source } from "./dicom";
import { pixelsToCanvas } from "./place";

/** Colours that differ for people who see red and green alike, too (Okabe and Ito, 2008). */
export const SEGMENT_COLORS: readonly (readonly [number, number, number])[] = [
  [240, 228, 66],
  [86, 180, 233],
  [213, 94, 0],
  [0, 158, 115],
  [204, 121, 167],
  [230, 159, 0],
  [0, 114, 178],
];

export const colorOf = (segment: number): readonly [number, number, number] =>
  SEGMENT_COLORS[(segment - 1) % SEGMENT_COLORS.length] as readonly [number, number, number];

/** How many frames lie on none of ``imageIds``, or on one of another size, and so are never seen. */
export function countUnplaced(read: Segmentation, imageIds: readonly string[], sourceOf: SourceOf): number {
  const known = imageIds.flatMap((imageId) => {
    const size = metaData.get("imagePixelModule", imageId) as { rows?: number; columns?: number } | undefined;
    if (size?.rows !== read.rows || size.columns !== read.columns) return [];
    const source = sourceOf(imageId);
    return source ? [keyOf(source), keyOf({ ...source, frame: null })] : [];
  });
  const placed = new Set(known);
  return read.frames.filter((frame) => !placed.has(keyOf(frame.source))).length;
}

/** An image's SOP Instance UID and the number of its frame. */
type SourceOf = (imageId: string) => Source | null;

const keyOf = ({ sop, frame }: Source): string => `${sop}#${frame ?? "all"}`;

/**
 * Drawn over each image once that is drawn. Not Cornerstone3D's own: that needs a graphics card, and an array of labels
 * for all images, once all are loaded; here one image's labels are unpacked when it comes into sight.
 */
export class Overlay {
  private readonly frames = new Map<string, SegmentFrame[]>();
  private readonly picture = document.createElement("canvas");
  private painted: string | null = null;
  private readonly hidden = new Set<number>();
  private readonly element: HTMLDivElement;

  constructor(
    private readonly viewportId: string,
    private readonly read: Segmentation,
    private opacity: number,
    private readonly sourceOf: SourceOf,
  ) {
    for (const frame of read.frames) {
      const key = keyOf(frame.source);
      this.frames.set(key, [...(this.frames.get(key) ?? []), frame]);
    }
    this.picture.width = read.columns;
    this.picture.height = read.rows;
    this.element = viewport(viewportId).element;
    this.element.addEventListener(Enums.Events.IMAGE_RENDERED, this.draw);
    this.change();
  }

  setOpacity(opacity: number): void {
    this.opacity = opacity;
    this.change();
  }

  setVisible(segment: number, isVisible: boolean): void {
    if (isVisible) this.hidden.delete(segment);
    else this.hidden.add(segment);
    this.change();
  }

  remove(): void {
    this.element.removeEventListener(Enums.Events.IMAGE_RENDERED, this.draw);
  }

  private framesOn(imageId: string): SegmentFrame[] {
    const source = this.sourceOf(imageId);
    if (source === null) return [];
    return [...(this.frames.get(keyOf(source)) ?? []), ...(this.frames.get(keyOf({ ...source, frame: null })) ?? [])];
  }

  private change(): void {
    this.painted = null;
    viewport(this.viewportId).render();
  }

  private readonly draw = (): void => {
    const shown = viewport(this.viewportId);
    const image = shown.getCornerstoneImage() as { imageId: string; rows: number; columns: number } | undefined;
    const frames = image && this.framesOn(image.imageId);
    const place = frames && pixelsToCanvas(shown);
    const context = shown.getCanvas().getContext("2d");
    // A frame that isn't as large as its image doesn't say where on it its pixels lie.
    if (!frames?.length || !place || !context) return;
    if (image.rows !== this.read.rows || image.columns !== this.read.columns) return;
    if (this.painted !== image.imageId) this.paint(frames);
    this.painted = image.imageId;
    context.save();
    context.setTransform(place);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, 0, 0);
    context.restore();
  };

  /** Segments of ``opacity``, and the pixels at their edge of twice that, so that they are found when faint. */
  private paint(frames: readonly SegmentFrame[]): void {
    const { rows, columns } = this.read;
    const colors = new ImageData(columns, rows);
    for (const frame of frames) {
      if (this.hidden.has(frame.segment)) continue;
      const pixels = this.read.pixels(frame);
      const color = colorOf(frame.segment);
      for (let at = 0; at < pixels.length; at += 1) {
        if (!pixels[at]) continue;
        const isInside = pixels[at - 1] && pixels[at + 1] && pixels[at - columns] && pixels[at + columns];
        colors.data.set(color, 4 * at);
        colors.data[4 * at + 3] = 255 * this.opacity * (isInside ? 1 : 2);
      }
    }
    this.picture.getContext("2d")?.putImageData(colors, 0, 0);
  }
}
