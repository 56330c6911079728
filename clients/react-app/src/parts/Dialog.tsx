import { useEffect, useId, useRef } from "react";
import type { ReactNode } from "react";

import { useWords } from "../i18n";

/** A modal dialog; the browser keeps the focus in it, and Escape closes it. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const t = useWords();
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={element} aria-labelledby={id} onCancel={onClose} onClose={onClose}>
      <div className="dialog-head">
        <h2 id={id}>{title}</h2>
        <button type="button" className="plain icon" aria-label={t("common.close")} onClick={onClose}>
          ✕
        </button>
      </div>
      {children}
    </dialog>
  );
}
