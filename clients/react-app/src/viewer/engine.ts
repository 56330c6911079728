/** Cornerstone3D, set up once: loaders, tools, one rendering engine for all viewports of the page. */
import {
  cache,
  Enums,
  eventTarget,
  getRenderingCapabilities,
  imageLoader,
  init as initCore,
  metaData,
  RenderingEngine,
  setUseCPURendering,
  type Types,
  utilities as coreUtilities,
} from "@cornerstonejs/core";
import { init as initLoader, wadouri } from "@cornerstonejs/dicom-image-loader";
import {
  addTool,
  annotation,
  Enums as ToolEnums,
  LengthTool,
  PanTool,
  StackScrollTool,
  store,
  SynchronizerManager,
  synchronizers,
  ToolGroupManager,
  utilities as toolUtilities,
  WindowLevelTool,
  ZoomTool,
} from "@cornerstonejs/tools";

import { drawOnProcessor } from "./processor";

export { annotation, cache, coreUtilities, Enums, imageLoader, metaData, SynchronizerManager, synchronizers, wadouri };
export type { Types };

export const TOOLS = { window: WindowLevelTool, pan: PanTool, zoom: ZoomTool, length: LengthTool } as const;
export type ToolName = keyof typeof TOOLS;

const ENGINE = "mip";
const GROUP = "mip";
const { Primary, Secondary, Auxiliary, Wheel } = ToolEnums.MouseBindings;

let started: Promise<void> | null = null;
let engine: RenderingEngine | null = null;

export function start(): Promise<void> {
  started ??= begin();
  return started;
}

async function begin(): Promise<void> {
  window.addEventListener("unhandledrejection", (event) => {
    // Of an image that can't be loaded the loader also rejects a promise that nobody holds; who asked is told, too.
    if (isLoaderFailure(event.reason)) event.preventDefault();
  });
  await initCore();
  const { webgl, softwareRasterizer } = getRenderingCapabilities();
  const hasGraphics = webgl && !softwareRasterizer;
  setUseCPURendering(!hasGraphics); // an engine that is made now keeps no contexts of WebGL in store
  engine = new RenderingEngine(ENGINE);
  if (!hasGraphics) drawOnProcessor();
  listen();
  initLoader({
    maxWebWorkers: Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 2) - 1)),
    // The newer one makes an object of every header with dcmjs, which takes longer than decoding the image.
    useLegacyMetadataProvider: true,
    // API Gateway passes on as bytes only what is accepted before all else (docs/aws.md).
    beforeSend: () => ({ accept: "application/dicom" }),
  });
  for (const tool of [...Object.values(TOOLS), StackScrollTool]) addTool(tool);
  const group = ToolGroupManager.createToolGroup(GROUP);
  if (!group) throw new Error("the tools could not be set up");
  for (const tool of [...Object.values(TOOLS), StackScrollTool]) group.addTool(tool.toolName);
  group.setToolActive(StackScrollTool.toolName, { bindings: [{ mouseButton: Wheel }, { numTouchPoints: 2 }] });
  chooseTool("window");
}

/** What Cornerstone3D's tools listen to. Their own `init` adds what is for segmentations, which brings ten times as much. */
function listen(): void {
  const { ANNOTATION_MODIFIED, ANNOTATION_SELECTION_CHANGE } = ToolEnums.Events;
  const draw = () => toolUtilities.triggerAnnotationRenderForViewportIds((engine?.getViewports() ?? []).map(({ id }) => id));
  eventTarget.addEventListener(Enums.Events.ELEMENT_ENABLED, store.addEnabledElement);
  eventTarget.addEventListener(Enums.Events.ELEMENT_DISABLED, store.removeEnabledElement);
  eventTarget.addEventListener(ANNOTATION_MODIFIED, draw);
  eventTarget.addEventListener(ANNOTATION_SELECTION_CHANGE, draw);
}

function isLoaderFailure(reason: unknown): boolean {
  if (typeof reason !== "object" || reason === null || !("error" in reason)) return false;
  // Without a data set the file never came, as when the page is left while images load.
  return Object.keys(reason).every((key) => key === "error" || key === "dataSet");
}

/** The left button and one finger are ``name``'s; the middle button pans and the right one zooms, whatever it is. */
export function chooseTool(name: ToolName): void {
  const group = ToolGroupManager.getToolGroup(GROUP);
  if (!group) return;
  for (const tool of Object.values(TOOLS)) group.setToolPassive(tool.toolName, { removeAllBindings: true });
  group.setToolActive(PanTool.toolName, { bindings: [{ mouseButton: Auxiliary }] });
  group.setToolActive(ZoomTool.toolName, { bindings: [{ mouseButton: Secondary }] });
  const own = name === "pan" ? [{ mouseButton: Auxiliary }] : name === "zoom" ? [{ mouseButton: Secondary }] : [];
  group.setToolActive(TOOLS[name].toolName, { bindings: [{ mouseButton: Primary }, ...own] });
}

export function addViewport(viewportId: string, element: HTMLDivElement): Types.IStackViewport {
  if (engine === null) throw new Error("the viewer is not set up");
  engine.enableElement({
    viewportId,
    type: Enums.ViewportType.STACK,
    element,
    defaultOptions: { background: [0, 0, 0] },
  });
  ToolGroupManager.getToolGroup(GROUP)?.addViewport(viewportId, ENGINE);
  return viewport(viewportId);
}

export function removeViewport(viewportId: string): void {
  ToolGroupManager.getToolGroup(GROUP)?.removeViewports(ENGINE, viewportId);
  drawn.delete(viewportId);
  engine?.disableElement(viewportId);
}

export function viewport(viewportId: string): Types.IStackViewport {
  const found = engine?.getViewport(viewportId);
  if (!found) throw new Error(`there is no viewport ${viewportId}`);
  return found as Types.IStackViewport;
}

export function hasViewport(viewportId: string): boolean {
  return Boolean(engine?.getViewport(viewportId));
}

/** Viewports that show something. */
const drawn = new Set<string>();
let isResizeDue = false;

/**
 * The viewports' places have other sizes now. That waits until all of them show an image: a camera that is kept
 * from before there was one makes the image as small as a pixel.
 */
export function resizeAll(): void {
  isResizeDue = true;
  const all = engine?.getViewports() ?? [];
  if (!all.every((one) => drawn.has(one.id))) return;
  isResizeDue = false;
  // What nobody has moved is fitted into its place anew; what somebody has, stays as large as it is.
  const isMoved = all.some((one) => Math.abs(one.getZoom() - 1) > 0.01 || Math.hypot(...one.getPan()) > 1);
  engine?.resize(true, isMoved);
}

export function markDrawn(viewportId: string, isDrawn: boolean): void {
  if (isDrawn) drawn.add(viewportId);
  else drawn.delete(viewportId);
  if (isDrawn && isResizeDue) resizeAll();
}

export const ENGINE_ID = ENGINE;

/** Let go of all images: of a large series these are hundreds of megabytes, twice. */
export function release(): void {
  cache.purgeCache();
  wadouri.dataSetCacheManager.purge();
  wadouri.fileManager.purge();
}
