import { expect, it } from "vitest";

import { edges, letters } from "./orientation";

it("names the edges of an axial image", () => {
  expect(edges([1, 0, 0], [0, 1, 0])).toEqual({ left: "R", right: "L", top: "A", bottom: "P" });
});

it("names the edges of a coronal and a sagittal image", () => {
  expect(edges([1, 0, 0], [0, 0, -1])).toEqual({ left: "R", right: "L", top: "H", bottom: "F" });
  expect(edges([0, 1, 0], [0, 0, -1])).toEqual({ left: "A", right: "P", top: "H", bottom: "F" });
});

it("names an oblique direction by its two largest parts", () => {
  expect(letters([0.8, 0.6, 0])).toBe("LP");
  expect(letters([0.99, 0.1, 0])).toBe("L");
});
