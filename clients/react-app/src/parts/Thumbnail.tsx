import { useEffect, useRef, useState } from "react";

import { session } from "../state/session";
import { useStore } from "../state/store";

interface Props {
  studyId: string;
  seriesId: string;
  modality: string | null;
}

/** A small picture of a series, asked for when it comes into sight. Without one, its modality. */
export function Thumbnail({ studyId, seriesId, modality }: Props) {
  const platform = useStore(session)?.platform;
  const place = useRef<HTMLSpanElement>(null);
  const [url, setUrl] = useState<string | null>(null);

  useEffect(() => {
    const element = place.current;
    if (element === null || platform === undefined) return;
    const stop = new AbortController();
    let made: string | null = null;
    const watcher = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      platform
        .thumbnail(studyId, seriesId, stop.signal)
        .then((picture) => {
          if (stop.signal.aborted) return;
          made = URL.createObjectURL(picture);
          setUrl(made);
        })
        .catch(() => undefined);
    });
    watcher.observe(element);
    return () => {
      stop.abort();
      watcher.disconnect();
      if (made) URL.revokeObjectURL(made);
    };
  }, [platform, studyId, seriesId]);

  return (
    <span className="thumbnail" ref={place} aria-hidden="true">
      {url ? <img src={url} alt="" /> : <span>{modality ?? "?"}</span>}
    </span>
  );
}
