import { expect, it } from "vitest";

import { unpacked } from "./dicom";

it("unpacks bits from the lowest of each byte on, across bytes", () => {
  expect([...unpacked(new Uint8Array([0b0000_0101, 0b1000_0001]), 0, 9)]).toEqual([1, 0, 1, 0, 0, 0, 0, 0, 1]);
  expect([...unpacked(new Uint8Array([0b0000_0101, 0b1000_0001]), 2, 7)]).toEqual([1, 0, 0, 0, 0, 0, 1]);
});
