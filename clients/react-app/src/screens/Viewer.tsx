import { useEffect, useState } from "react";

import { useWords } from "../i18n";
import { go, opened } from "../state/route";
import type { Opened } from "../state/route";
import { session } from "../state/session";
import { useStore } from "../state/store";
import { imagesOf } from "../viewer/images";

type Loaded = typeof import("../viewer/OpenSeries");

let loaded: Loaded | null = null;

/**
 * What shows a series brings Cornerstone3D, which is four times everything else. Not a lazy component: React holds the
 * contents back for 300 ms where it has shown that they are waited for.
 */
export async function loadViewer(): Promise<void> {
  if (loaded) return;
  const module = await import("../viewer/OpenSeries");
  module.start().catch(() => undefined); // fails again, and is told, when a series is opened
  loaded = module;
}

// The list of images is on its way before the screen is another one, and while the viewer comes.
let asked: Opened["series"] | null = null;
opened.subscribe(() => {
  const { series } = opened.get() ?? {};
  const platform = session.get()?.platform;
  if (!platform || !series || series === asked) return;
  asked = series;
  void imagesOf(platform, series.study_id, series.series_id).catch(() => undefined);
});

export function Viewer() {
  const t = useWords();
  const here = useStore(opened);
  const [failure, setFailure] = useState<unknown>(null);
  const [, setLoaded] = useState(false);
  const studyId = here?.series.study_id;
  const seriesId = here?.series.series_id;

  useEffect(() => {
    if (!studyId || !seriesId || loaded) return;
    loadViewer().then(
      () => setLoaded(true),
      (error: unknown) => setFailure(error ?? new Error("the viewer could not be loaded")),
    );
  }, [studyId, seriesId]);

  if (failure !== null) throw failure;
  if (!here) {
    return (
      <div className="empty">
        <h1 className="hidden">{t("viewer.title")}</h1>
        <p>{t("viewer.nothing")}</p>
        <button type="button" className="main" onClick={() => go("find")}>
          {t("viewer.choose")}
        </button>
      </div>
    );
  }
  if (!loaded) {
    return (
      <p className="quiet" role="status">
        {t("common.loading")}…
      </p>
    );
  }
  return <loaded.OpenSeries key={`${studyId}/${seriesId}`} />;
}
