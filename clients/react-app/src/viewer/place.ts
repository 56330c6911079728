import type { Types } from "./engine";

/** The matrix that takes an image's pixels, counted from its first one's corner, to those of the viewport's canvas. */
export function pixelsToCanvas(viewport: Types.IStackViewport): DOMMatrix | null {
  const image = viewport.getImageData();
  if (!image) return null;
  const { origin, spacing, direction } = image;
  const ratio = window.devicePixelRatio || 1;
  const at = (column: number, row: number): [number, number] => {
    const world = [0, 1, 2].map(
      (axis) =>
        (origin[axis] ?? 0) +
        column * (spacing[0] ?? 1) * (direction[axis] ?? 0) +
        row * (spacing[1] ?? 1) * (direction[axis + 3] ?? 0),
    );
    const [x, y] = viewport.worldToCanvas(world as Types.Point3);
    return [x * ratio, y * ratio];
  };
  // A pixel's position is its centre's (PS3.3 C.7.6.2.1.1).
  const [corner, right, below] = [at(-0.5, -0.5), at(0.5, -0.5), at(-0.5, 0.5)];
  return new DOMMatrix([
    right[0] - corner[0],
    right[1] - corner[1],
    below[0] - corner[0],
    below[1] - corner[1],
    corner[0],
    corner[1],
  ]);
}
