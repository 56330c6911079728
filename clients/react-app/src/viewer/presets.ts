import type { Key } from "../i18n";

/** CT windows in Hounsfield units, as radiology uses them: centre and width. */
export const PRESETS = {
  abdomen: { center: 40, width: 400 },
  liver: { center: 90, width: 150 },
  mediastinum: { center: 50, width: 350 },
  lung: { center: -600, width: 1500 },
  bone: { center: 400, width: 1800 },
  brain: { center: 40, width: 80 },
} as const satisfies Record<string, { center: number; width: number }>;

export type PresetName = keyof typeof PRESETS;
export const PRESET_NAMES = Object.keys(PRESETS) as PresetName[];
export const presetKey = (name: PresetName): Key => `preset.${name}`;
