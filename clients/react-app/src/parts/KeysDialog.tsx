import { useState } from "react";

import { useWords } from "../i18n";
import { changeKeys, current } from "../state/session";
import { Dialog } from "./Dialog";

export function KeysDialog({ onClose }: { onClose: () => void }) {
  const t = useWords();
  const [keys, setKeys] = useState(current().platform.keys);
  return (
    <Dialog title={t("keys.title")} onClose={onClose}>
      <form
        className="form"
        onSubmit={(event) => {
          event.preventDefault();
          changeKeys(keys);
          onClose();
        }}
      >
        <p className="quiet">{t("keys.text")}</p>
        {(["client", "pacs", "admin"] as const).map((name) => (
          <label key={name}>
            <span>{t(`keys.${name}`)}</span>
            <input
              type="password"
              autoComplete="off"
              value={keys[name]}
              onChange={(event) => setKeys({ ...keys, [name]: event.target.value.trim() })}
            />
          </label>
        ))}
        <div className="actions">
          <button type="submit" className="main">
            {t("keys.use")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
