import { useState } from "react";

import { useWords } from "../i18n";
import type { Key } from "../i18n";
import { Dialog } from "../parts/Dialog";
import type { ToolName } from "./engine";
import { PRESET_NAMES, presetKey } from "./presets";
import type { PresetName } from "./presets";

const TOOL_NAMES: readonly ToolName[] = ["window", "pan", "zoom", "length"];
const KEYS: readonly (readonly [string, Key])[] = [
  ["↑ ↓", "keyhelp.scroll"],
  ["Page ↑ ↓", "keyhelp.page"],
  ["Home End", "keyhelp.ends"],
  ["+ −", "keyhelp.zoom"],
  ["W P Z L", "keyhelp.tools"],
  ["1 … 6, 0", "keyhelp.presets"],
  ["R", "keyhelp.reset"],
];

interface Props {
  tool: ToolName;
  onTool: (tool: ToolName) => void;
  /** The images are CT, whose windows the presets are. */
  hasPresets: boolean;
  onPreset: (preset: PresetName | null) => void;
  onReset: () => void;
  onClear: () => void;
  link: { isOn: boolean; onChange: (isOn: boolean) => void } | null;
}

export function Toolbar({ tool, onTool, hasPresets, onPreset, onReset, onClear, link }: Props) {
  const t = useWords();
  const [help, setHelp] = useState(false);
  return (
    <div className="toolbar" role="toolbar" aria-label={t("viewer.tools")}>
      <div className="group">
        {TOOL_NAMES.map((name) => (
          <button key={name} type="button" aria-pressed={tool === name} onClick={() => onTool(name)}>
            {t(`tool.${name}`)}
          </button>
        ))}
      </div>
      {hasPresets && <select
        aria-label={t("preset.label")}
        value=""
        onChange={(event) => onPreset(event.target.value === "stored" ? null : (event.target.value as PresetName))}
      >
        <option value="" disabled>
          {t("preset.label")}
        </option>
        {PRESET_NAMES.map((name) => (
          <option key={name} value={name}>
            {t(presetKey(name))}
          </option>
        ))}
        <option value="stored">{t("preset.custom")}</option>
      </select>}
      <button type="button" onClick={onReset}>
        {t("tool.reset")}
      </button>
      <button type="button" onClick={onClear}>
        {t("tool.clear")}
      </button>
      {link && (
        <label className="check">
          <input type="checkbox" checked={link.isOn} onChange={(event) => link.onChange(event.target.checked)} />
          {t("tool.link")}
        </label>
      )}
      <button type="button" className="plain wide-only" onClick={() => setHelp(true)}>
        {t("tool.keys")}
      </button>
      {help && (
        <Dialog title={t("tool.keys")} onClose={() => setHelp(false)}>
          <dl className="keyhelp">
            {KEYS.map(([keys, words]) => (
              <div key={words}>
                <dt>
                  <kbd>{keys}</kbd>
                </dt>
                <dd>{t(words)}</dd>
              </div>
            ))}
          </dl>
        </Dialog>
      )}
    </div>
  );
}
