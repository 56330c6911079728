/** A Segmentation as coloured labels over the images that it was made from. */
import { cache, imageLoader, segmentation, ToolEnums, toolUtilities, viewport } from "./engine";
import type { Segmentation } from "./dicom";

const LABELMAP = ToolEnums.SegmentationRepresentations.Labelmap;

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

export class Overlay {
  private readonly labelIds: string[];

  /**
   * ``indexOf`` tells which of ``imageIds`` the image with a SOP Instance UID is. All of these must be loaded:
   * labels lie on a grid that only the image tells.
   */
  constructor(
    private readonly id: string,
    private readonly viewportId: string,
    imageIds: string[],
    read: Segmentation,
    indexOf: (sop: string) => number | undefined,
  ) {
    const labels = imageLoader.createAndCacheDerivedLabelmapImages(imageIds);
    this.labelIds = labels.map((label) => label.imageId);
    for (const frame of read.frames) {
      const label = labels[indexOf(frame.source) ?? -1];
      if (!label || label.rows !== read.rows || label.columns !== read.columns) continue;
      const into = label.voxelManager?.getScalarData() as Uint8Array | undefined;
      if (!into) continue;
      const pixels = read.pixels(frame);
      for (let at = 0; at < pixels.length; at += 1) if (pixels[at]) into[at] = frame.segment;
      label.voxelManager?.setScalarData(into);
    }
    segmentation.addSegmentations([
      { segmentationId: id, representation: { type: LABELMAP, data: { imageIds: this.labelIds } } },
    ]);
    segmentation.addSegmentationRepresentations(viewportId, [{ segmentationId: id, type: LABELMAP }]);
    for (const { number } of read.segments) {
      segmentation.config.color.setSegmentIndexColor(viewportId, id, number, [...colorOf(number), 255]);
    }
  }

  setOpacity(opacity: number): void {
    segmentation.config.style.setStyle(
      { type: LABELMAP, viewportId: this.viewportId, segmentationId: this.id },
      {
        renderFill: true,
        fillAlpha: opacity,
        renderOutline: true,
        outlineWidth: 2,
        outlineOpacity: Math.min(1, opacity * 2),
      },
    );
    this.draw();
  }

  setVisible(segment: number, isVisible: boolean): void {
    const of = { segmentationId: this.id, type: LABELMAP };
    segmentation.config.visibility.setSegmentIndexVisibility(this.viewportId, of, segment, isVisible);
    this.draw();
  }

  /** The labels, then what lies under them: a viewport alone draws labels as they were. */
  private draw(): void {
    toolUtilities.segmentation.triggerSegmentationRender(this.viewportId);
    viewport(this.viewportId).render();
  }

  remove(): void {
    segmentation.removeSegmentationRepresentation(this.viewportId, { segmentationId: this.id, type: LABELMAP });
    segmentation.removeSegmentation(this.id);
    for (const id of this.labelIds) if (cache.getImageLoadObject(id)) cache.removeImageLoadObject(id);
  }
}
