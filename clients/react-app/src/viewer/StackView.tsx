import { useEffect, useRef, useState } from "react";
import type { KeyboardEvent } from "react";

import { useWords } from "../i18n";
import { addViewport, cache, Enums, hasViewport, markDrawn, metaData, removeViewport, resizeAll, viewport } from "./engine";
import type { Types } from "./engine";
import { edges } from "./orientation";
import type { Edges } from "./orientation";
import { describe } from "./window";

interface Props {
  id: string;
  title: string;
  imageIds: string[];
  index: number;
  onIndex: (index: number) => void;
  /** The first image is drawn. */
  onReady?: () => void;
  onKey?: (key: string) => boolean;
  note?: string | null;
  /** What is to be known of the image in sight. */
  remark?: string | null;
}

interface Facts {
  edges: Edges | null;
  window: string | null;
}

/** As long as Cornerstone3D waits when the wheel is turned. */
const SETTLE_MS = 40;
const PAGE = 10;
const ZOOM_STEP = 1.2;

/** One stack of images: scrolled by wheel, two fingers, keys and the slider below it. */
export function StackView({ id, title, imageIds, index, onIndex, onReady, onKey, note, remark }: Props) {
  const t = useWords();
  const place = useRef<HTMLDivElement>(null);
  /** Only the view that a person acts on says where to go; the other one follows. */
  const acts = useRef(false);
  const latest = useRef({ onIndex, onReady });
  latest.current = { onIndex, onReady };
  const [facts, setFacts] = useState<Facts>({ edges: null, window: null });
  const [isReady, setReady] = useState(false);
  /**
   * Which image is drawn: another one than is asked for until that is there, and where it can't be had. That is known by
   * no image having come: Cornerstone3D's promise is kept all the same.
   */
  const drawn = useRef<number | null>(null);
  const [missing, setMissing] = useState<number | null>(null);

  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    addViewport(id, element);
    const resized = new ResizeObserver(() => resizeAll());
    resized.observe(element);
    const onImage = (event: Event) => {
      const { imageIdIndex } = (event as CustomEvent<{ imageIdIndex: number }>).detail;
      setFacts(factsOf(id));
      drawn.current = imageIdIndex;
      const image = viewport(id).getCornerstoneImage() as { width?: number } | undefined;
      setMissing(image && !image.width ? imageIdIndex : null);
      if (acts.current) latest.current.onIndex(imageIdIndex);
    };
    const onWindow = () => setFacts(factsOf(id));
    const quiet = (event: Event) => event.preventDefault();
    element.addEventListener(Enums.Events.STACK_NEW_IMAGE, onImage);
    element.addEventListener(Enums.Events.VOI_MODIFIED, onWindow);
    element.addEventListener("contextmenu", quiet);
    return () => {
      resized.disconnect();
      element.removeEventListener(Enums.Events.STACK_NEW_IMAGE, onImage);
      element.removeEventListener(Enums.Events.VOI_MODIFIED, onWindow);
      element.removeEventListener("contextmenu", quiet);
      removeViewport(id);
    };
  }, [id]);

  const wanted = useRef(index);
  wanted.current = index;
  useEffect(() => {
    let isCurrent = true;
    setReady(false);
    setMissing(null);
    drawn.current = null;
    markDrawn(id, false);
    if (!imageIds.length) return;
    const at = Math.min(wanted.current, imageIds.length - 1);
    viewport(id)
      .setStack(imageIds, at)
      .then(() => {
        if (!isCurrent || !hasViewport(id)) return;
        viewport(id).resetCamera();
        viewport(id).render();
        markDrawn(id, true);
        setFacts(factsOf(id));
        if (drawn.current !== at) setMissing(at);
        setReady(true);
        latest.current.onReady?.();
      })
      .catch(() => undefined); // that an image can't be loaded is said by who loads them all
    return () => {
      isCurrent = false;
    };
  }, [id, imageIds]);

  useEffect(() => {
    if (!isReady) return;
    const shown = viewport(id);
    let isWanted = true;
    const check = () => {
      if (isWanted && drawn.current !== index) setMissing(index);
    };
    if (shown.getCurrentImageIdIndex() === index) return check();
    const show = () => void shown.setImageIdIndex(index).then(check, check);
    const leave = () => {
      isWanted = false;
    };
    if (cache.isLoaded(imageIds[index] ?? "")) {
      show();
      return leave;
    }
    // Images that are only passed on the way to another one aren't asked for.
    const settled = setTimeout(show, SETTLE_MS);
    return () => {
      leave();
      clearTimeout(settled);
    };
  }, [id, imageIds, index, isReady]);

  const move = (to: number): void => {
    acts.current = false;
    onIndex(Math.max(0, Math.min(imageIds.length - 1, to)));
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const steps: Record<string, () => void> = {
      ArrowDown: () => move(index + 1),
      ArrowRight: () => move(index + 1),
      ArrowUp: () => move(index - 1),
      ArrowLeft: () => move(index - 1),
      PageDown: () => move(index + PAGE),
      PageUp: () => move(index - PAGE),
      Home: () => move(0),
      End: () => move(imageIds.length - 1),
      "+": () => zoomBy(id, ZOOM_STEP),
      "-": () => zoomBy(id, 1 / ZOOM_STEP),
    };
    const step = steps[event.key];
    if (step) step();
    else if (!onKey?.(event.key)) return;
    event.preventDefault();
  };

  const where = t("viewer.slice", { n: index + 1, total: imageIds.length });
  return (
    <section className="view" aria-label={title}>
      <div
        className="view-image"
        tabIndex={0}
        role="group"
        aria-label={`${title}. ${where}`}
        data-ready={isReady}
        data-index={index}
        data-behind={isReady && drawn.current !== index}
        onKeyDown={onKeyDown}
        onPointerEnter={() => (acts.current = true)}
        onPointerDownCapture={(event) => {
          acts.current = true;
          event.currentTarget.focus({ preventScroll: true });
        }}
        onWheelCapture={() => (acts.current = true)}
        onTouchStartCapture={() => (acts.current = true)}
        onPointerLeave={() => (acts.current = false)}
      >
        <div className="view-canvas" ref={place} />
        <span className="mark mark-title">{title}</span>
        {note && <span className="mark mark-note">{note}</span>}
        {missing === index && <span className="mark mark-missing">{t("viewer.missing")}</span>}
        {remark && <span className="mark mark-remark">{remark}</span>}
        <span className="mark mark-slice">{where}</span>
        {facts.window && <span className="mark mark-window">{facts.window}</span>}
        {facts.edges && (
          <>
            <span className="mark mark-left">{facts.edges.left}</span>
            <span className="mark mark-right">{facts.edges.right}</span>
            <span className="mark mark-top">{facts.edges.top}</span>
            <span className="mark mark-bottom">{facts.edges.bottom}</span>
          </>
        )}
      </div>
      {imageIds.length > 1 && (
        <input
          type="range"
          className="slider"
          aria-label={`${title}: ${t("viewer.sliceSlider")}`}
          aria-valuetext={where}
          min={0}
          max={imageIds.length - 1}
          value={index}
          onChange={(event) => move(Number(event.target.value))}
        />
      )}
    </section>
  );
}

function zoomBy(id: string, factor: number): void {
  const shown = viewport(id);
  shown.setZoom(shown.getZoom() * factor);
  shown.render();
}

function factsOf(id: string): Facts {
  if (!hasViewport(id)) return { edges: null, window: null };
  const shown = viewport(id);
  const imageId = shown.getCurrentImageId();
  const plane = imageId ? (metaData.get("imagePlaneModule", imageId) as Plane | undefined) : undefined;
  const known = plane?.rowCosines && plane.columnCosines;
  const range = (shown.getProperties() as Types.StackViewportProperties).voiRange;
  const image = imageId ? (metaData.get("imagePixelModule", imageId) as { samplesPerPixel?: number }) : undefined;
  const isGray = (image?.samplesPerPixel ?? 1) === 1;
  return {
    edges: known && plane.rowCosines && plane.columnCosines ? edges(plane.rowCosines, plane.columnCosines) : null,
    window:
      range && isGray ? describe(range) : null,
  };
}

interface Plane {
  rowCosines?: ArrayLike<number> | null;
  columnCosines?: ArrayLike<number> | null;
}
