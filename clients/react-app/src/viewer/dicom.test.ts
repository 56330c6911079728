import { expect, it } from "vitest";

import type { DataSet } from "dicom-parser";

import { readMeasurements, readSegmentation, SegmentationNotShown, unpacked } from "./dicom";

/** A data set of these elements: texts, or lists of items. */
function dataSet(elements: Record<string, string | DataSet[]>): DataSet {
  const read = (tag: string) => elements[tag];
  const texts = Object.entries(elements).filter(([, value]) => typeof value === "string");
  const bytes = new TextEncoder().encode(texts.map(([, value]) => value as string).join(""));
  let offset = 0;
  const placed = texts.map(([tag, value]) => {
    const length = (value as string).length;
    offset += length;
    return [tag, { dataOffset: offset - length, length }] as const;
  });
  const sequences = Object.entries(elements).filter(([, value]) => typeof value !== "string");
  const items = sequences.map(([tag, value]) => [tag, { items: (value as DataSet[]).map((one) => ({ dataSet: one })) }] as const);
  return {
    byteArray: bytes,
    elements: Object.fromEntries([...placed, ...items]),
    string: (tag: string) => (typeof read(tag) === "string" ? read(tag) : undefined),
    uint16: () => undefined,
  } as unknown as DataSet;
}

const measured = (value: string, unit: string): DataSet =>
  dataSet({
    x0040a040: "NUM",
    x0040a043: [dataSet({ x00080100: "118565006", x00080104: "Volume" })],
    x0040a300: [dataSet({ x0040a30a: value, x004008ea: [dataSet({ x00080100: unit })] })],
  });

it("reads units as people write them, and no number where there is none", () => {
  const values = [measured("12.5", "cm3"), measured("-80", "[hnsf'U]"), measured("0.87", "{ratio}"), measured("", "mm")];
  const read = readMeasurements(dataSet({ x0040a730: values }));
  expect(read.map((one) => [one.name, one.value, one.unit])).toEqual([
    ["Volume", 12.5, "cm³"],
    ["Volume", -80, "HU"],
    ["Volume", 0.87, ""],
  ]);
});

it("says of a fractional segmentation that it is not shown", () => {
  expect(() => readSegmentation(dataSet({ x00620001: "FRACTIONAL" }))).toThrow(SegmentationNotShown);
});

it("unpacks bits from the lowest of each byte on, across bytes", () => {
  expect([...unpacked(new Uint8Array([0b0000_0101, 0b1000_0001]), 0, 9)]).toEqual([1, 0, 1, 0, 0, 0, 0, 0, 1]);
  expect([...unpacked(new Uint8Array([0b0000_0101, 0b1000_0001]), 2, 7)]).toEqual([1, 0, 0, 0, 0, 0, 1]);
});
