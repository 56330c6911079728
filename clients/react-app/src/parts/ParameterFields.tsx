import { useState } from "react";

import type { Parameter, ParametersSchema } from "../api/types";
import { useWords } from "../i18n";

export type Parameters = Record<string, unknown>;

export function defaultsOf(schema: ParametersSchema): Parameters {
  const named = Object.entries(schema.properties);
  return Object.fromEntries(named.filter(([, one]) => one.default !== undefined).map(([name, one]) => [name, one.default]));
}

interface Props {
  schema: ParametersSchema | null;
  values: Parameters;
  onChange: (values: Parameters) => void;
}

/** A field for each parameter the algorithm describes; of one that describes none, their JSON. */
export function ParameterFields({ schema, values, onChange }: Props) {
  if (schema === null) return <JsonField onChange={onChange} />;
  return Object.entries(schema.properties).map(([name, one]) => (
    <ParameterField
      key={name}
      name={name}
      described={one}
      isRequired={schema.required?.includes(name) ?? false}
      value={values[name] ?? one.default}
      onChange={(value) => onChange({ ...values, [name]: value })}
    />
  ));
}

function JsonField({ onChange }: { onChange: (values: Parameters) => void }) {
  const t = useWords();
  const [isOpen, setOpen] = useState(false);
  const [text, setText] = useState("");
  const isBad = readObject(text) === null;
  return (
    // What is wrong is not folded away, as what was right before it would be sent.
    <details open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open || isBad)}>
      <summary>{t("run.parameters")}</summary>
      {isOpen && (
        <textarea
          aria-label={t("run.parameters")}
          rows={4}
          spellCheck={false}
          placeholder='{"above": 300}'
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            const read = readObject(event.target.value);
            event.target.setCustomValidity(read === null ? t("run.badJson") : "");
            if (read !== null) onChange(read);
          }}
        />
      )}
    </details>
  );
}

function readObject(text: string): Parameters | null {
  if (!text.trim()) return {};
  try {
    const read: unknown = JSON.parse(text);
    return read !== null && typeof read === "object" && !Array.isArray(read) ? (read as Parameters) : null;
  } catch {
    return null;
  }
}

interface FieldProps {
  name: string;
  described: Parameter;
  isRequired: boolean;
  value: unknown;
  onChange: (value: unknown) => void;
}

function ParameterField({ name, described, isRequired, value, onChange }: FieldProps) {
  const title = described.title ?? name;
  if (described.type === "boolean") {
    return (
      <label className="check">
        <input type="checkbox" checked={value === true} onChange={(event) => onChange(event.target.checked)} />
        {title}
      </label>
    );
  }
  const isNumber = described.type === "number" || described.type === "integer";
  const taken = (text: string): unknown => (text === "" ? undefined : isNumber ? Number(text) : text);
  return (
    <label>
      <span>{title}</span>
      {described.enum ? (
        <select value={String(value ?? "")} required={isRequired} onChange={(event) => onChange(taken(event.target.value))}>
          {value === undefined && <option value="" />}
          {described.enum.map((one) => (
            <option key={String(one)} value={String(one)}>
              {String(one)}
            </option>
          ))}
        </select>
      ) : (
        <input
          type={isNumber ? "number" : "text"}
          step={described.type === "integer" ? 1 : "any"}
          min={described.minimum}
          max={described.maximum}
          required={isRequired}
          value={value === undefined ? "" : String(value)}
          onChange={(event) => onChange(taken(event.target.value))}
        />
      )}
      {described.description && <small className="quiet">{described.description}</small>}
    </label>
  );
}
