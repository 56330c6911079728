/**
 * A file of several frames is one image to the PACS API, and here an image for each (PS3.3 C.7.6.6). How many it has
 * is known once it is there.
 */
import type { DataSet } from "dicom-parser";

import { wadouri } from "./engine";

const { dataSetCacheManager, parseImageId } = wadouri;

/** The images of ``imageIds``' files, frame after frame; of files that aren't there as they are. */
export function apart(imageIds: readonly string[]): string[] {
  return imageIds.flatMap((imageId) => {
    const data = dataSetOf(imageId);
    const count = data?.intString("x00280008") ?? 1;
    return count > 1 && parseImageId(imageId).frame === undefined ? framesOf(imageId, count) : [imageId];
  });
}

/** Of a file of ``count`` frames, whose address is ``imageId``. */
export function framesOf(imageId: string, count: number): string[] {
  const first = imageId.includes("?") ? "&" : "?";
  return Array.from({ length: count }, (_, at) => `${imageId}${first}frame=${at + 1}`);
}

/** The frame's number in its file, 1 for the first. */
export function frameNumber(imageId: string): number {
  return parseImageId(imageId).frame ?? 1;
}

/** Whether the file ends before its pixels do: what it lacks is drawn as if it were there. */
export function isCut(imageId: string): boolean {
  const data = dataSetOf(imageId);
  const pixels = data?.elements["x7fe00010"];
  if (!data || !pixels || pixels.encapsulatedPixelData || pixels.hadUndefinedLength) return false;
  const number = (tag: string) => data.uint16(tag) ?? 0;
  const samples = data.string("x00280004") === "YBR_FULL_422" ? 2 : number("x00280002") || 1;
  const bits = number("x00280010") * number("x00280011") * samples * number("x00280100") * (data.intString("x00280008") ?? 1);
  return Math.min(pixels.length, data.byteArray.length - pixels.dataOffset) * 8 < bits;
}

function dataSetOf(imageId: string): DataSet | undefined {
  return dataSetCacheManager.get(parseImageId(imageId).url) as DataSet | undefined;
}
