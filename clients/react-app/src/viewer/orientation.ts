/** Letters at the edges of an image: where in the patient each side lies (PS3.3 C.7.6.1.1.1). */

export interface Edges {
  left: string;
  right: string;
  top: string;
  bottom: string;
}

const POSITIVE = ["L", "P", "H"] as const;
const NEGATIVE = ["R", "A", "F"] as const;
/** What lies less than this much along an axis is not named by it. */
const LEAST = 0.25;

/** Of a direction in patient coordinates, its largest part first: "L", "HA", … */
export function letters(direction: ArrayLike<number>): string {
  return [0, 1, 2]
    .map((axis) => ({ axis, part: direction[axis] ?? 0 }))
    .filter(({ part }) => Math.abs(part) >= LEAST)
    .sort((a, b) => Math.abs(b.part) - Math.abs(a.part))
    .slice(0, 2)
    .map(({ axis, part }) => (part > 0 ? POSITIVE[axis] : NEGATIVE[axis]) ?? "")
    .join("");
}

export function edges(row: ArrayLike<number>, column: ArrayLike<number>): Edges {
  const back = (direction: ArrayLike<number>) => Array.from(direction, (part) => -part);
  return { right: letters(row), left: letters(back(row)), bottom: letters(column), top: letters(back(column)) };
}
