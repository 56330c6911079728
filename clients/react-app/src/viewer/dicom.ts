/** What is read of result files: which images they come from, segments, measurements. PS3.3, PS3.10. */
import dicomParser from "dicom-parser";
import type { DataSet } from "dicom-parser";

export interface SegmentLabel {
  number: number;
  label: string;
}

/** An image by its SOP Instance UID, and of one with several frames which; null for all (PS3.3, table 10-3). */
export interface Source {
  sop: string;
  frame: number | null;
}

export interface SegmentFrame {
  /** The image that the frame lies on. */
  source: Source;
  segment: number;
  index: number;
}

export interface Segmentation {
  rows: number;
  columns: number;
  segments: SegmentLabel[];
  frames: SegmentFrame[];
  /** One byte a pixel, 0 or 1 (a whole frame of ``rows`` × ``columns``). */
  pixels(frame: SegmentFrame): Uint8Array;
}

/** A segmentation that isn't binary, or is compressed. */
export class SegmentationNotShown extends Error {}

export interface Measurement {
  finding: string;
  name: string;
  value: number;
  unit: string;
}

export interface Capture {
  frames: number;
  /** The images that the frames were made from, frame after frame. */
  sources: Source[];
  seriesUid: string;
  studyUid: string;
}

export function parse(bytes: ArrayBuffer): DataSet {
  return dicomParser.parseDicom(new Uint8Array(bytes));
}

/** The header alone: pixels of a large capture needn't be looked at. */
export function parseHeader(bytes: ArrayBuffer): DataSet {
  return dicomParser.parseDicom(new Uint8Array(bytes), { untilTag: "x7fe00010" });
}

/** The Study Instance UID. */
export function studyOf(data: DataSet): string {
  return data.string("x0020000d") ?? "";
}

export function readCapture(data: DataSet): Capture {
  return {
    frames: data.intString("x00280008") ?? 1,
    sources: items(data, "x00082112").map(referenced),
    seriesUid: data.string("x0020000e") ?? "",
    studyUid: studyOf(data),
  };
}

/** A BINARY or LABELMAP-free segmentation in native encoding (PS3.3 A.51). Throws where it is another one. */
export function readSegmentation(data: DataSet): Segmentation {
  const rows = data.uint16("x00280010") ?? 0;
  const columns = data.uint16("x00280011") ?? 0;
  const stored = data.elements["x7fe00010"];
  if (data.string("x00620001") !== "BINARY" || !stored || stored.encapsulatedPixelData) {
    throw new SegmentationNotShown();
  }
  const shared = items(data, "x52009229")[0];
  const frames = items(data, "x52009230").map((group, index) => ({
    source: sourceOf(group) ?? (shared && sourceOf(shared)) ?? { sop: "", frame: null },
    segment: segmentOf(group) ?? (shared && segmentOf(shared)) ?? 1,
    index,
  }));
  const segments = items(data, "x00620002").map((item) => ({
    number: item.uint16("x00620004") ?? 0,
    label: text(item, "x00620005") || `${item.uint16("x00620004") ?? ""}`,
  }));
  const bits = data.byteArray.subarray(stored.dataOffset, stored.dataOffset + stored.length);
  const size = rows * columns;
  return { rows, columns, segments, frames, pixels: (frame) => unpacked(bits, frame.index * size, size) };
}

/** ``count`` bits from bit ``first`` on, the lowest of each byte first (PS3.5, section 8.1.1). */
export function unpacked(bits: Uint8Array, first: number, count: number): Uint8Array {
  const pixels = new Uint8Array(count);
  for (let at = 0; at < count; at += 1) {
    const bit = first + at;
    pixels[at] = ((bits[bit >> 3] ?? 0) >> (bit & 7)) & 1;
  }
  return pixels;
}

/** All numbers of a report, each with the finding of its group (PS3.16, TID 1500 and 1411). */
export function readMeasurements(data: DataSet): Measurement[] {
  const found: Measurement[] = [];
  const walk = (content: DataSet[], finding: string): void => {
    const own = content.find((item) => conceptOf(item)?.code === "121071");
    const here = (own && codeMeaning(items(own, "x0040a168")[0])) || finding;
    for (const item of content) {
      const value = items(item, "x0040a300")[0];
      const number = Number.parseFloat(value?.string("x0040a30a") ?? "");
      if (item.string("x0040a040") === "NUM" && value && Number.isFinite(number)) {
        found.push({
          finding: here,
          name: conceptOf(item)?.meaning ?? "",
          value: number,
          unit: unitOf(value),
        });
      }
      walk(items(item, "x0040a730"), here);
    }
  };
  walk(items(data, "x0040a730"), "");
  return found;
}

/** UCUM's codes that nobody writes so (PS3.16, CID 7181 and 7460). */
const UNITS: Readonly<Record<string, string>> = { "[hnsf'U]": "HU", "{ratio}": "", "1": "", um: "µm" };

function unitOf(value: DataSet): string {
  const code = items(value, "x004008ea")[0]?.string("x00080100") ?? "";
  return UNITS[code] ?? code.replace(/2$/, "²").replace(/3$/, "³");
}

function conceptOf(item: DataSet): { code: string; meaning: string } | null {
  const name = items(item, "x0040a043")[0];
  return name ? { code: name.string("x00080100") ?? "", meaning: text(name, "x00080104") } : null;
}

function codeMeaning(item: DataSet | undefined): string {
  return item ? text(item, "x00080104") : "";
}

function sourceOf(group: DataSet): Source | undefined {
  const derivation = items(group, "x00089124")[0];
  const source = derivation && items(derivation, "x00082112")[0];
  return source && referenced(source);
}

function referenced(item: DataSet): Source {
  return { sop: item.string("x00081155") ?? "", frame: item.intString("x00081160") ?? null };
}

function segmentOf(group: DataSet): number | undefined {
  return items(group, "x0062000a")[0]?.uint16("x0062000b");
}

function items(data: DataSet, tag: string): DataSet[] {
  return (data.elements[tag]?.items ?? []).flatMap((item) => (item.dataSet ? [item.dataSet] : []));
}

/** Text of a character set that may be UTF-8; what isn't is shown as it comes. */
function text(data: DataSet, tag: string): string {
  const element = data.elements[tag];
  if (!element) return "";
  const bytes = data.byteArray.subarray(element.dataOffset, element.dataOffset + element.length);
  return new TextDecoder().decode(bytes).replace(/[\0 ]+$/, "");
}
