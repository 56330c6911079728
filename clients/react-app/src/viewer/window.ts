import { coreUtilities } from "./engine";
import { PRESETS } from "./presets";
import type { PresetName } from "./presets";

export interface Range {
  lower: number;
  upper: number;
}

/** Of a CT window, from and to which value gray goes (PS3.3 C.11.2.1.2.1). */
export function rangeOf(name: PresetName): Range {
  const { center, width } = PRESETS[name];
  return coreUtilities.windowLevel.toLowHighRange(width, center);
}

export function describe({ lower, upper }: Range): string {
  const { windowCenter, windowWidth } = coreUtilities.windowLevel.toWindowLevel(lower, upper);
  return `C ${Math.round(windowCenter)}  W ${Math.round(windowWidth)}`;
}
