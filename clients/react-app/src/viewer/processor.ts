/**
 * A stack that the processor draws on a 2-D canvas, for machines without a graphics card.
 *
 * WebGL is a program on the processor there, three times slower at this, or there is none. Camera, window and tools are
 * Cornerstone3D's as ever; of its own way without WebGL nothing is used: that takes pixels of the page for pixels of
 * the screen, forgets the window with the next image, and pans a linked view elsewhere.
 */
import { Enums, registerViewportType, setUseCPURendering, StackViewport } from "@cornerstonejs/core";
import type { Types } from "@cornerstonejs/core";
import vtkRenderer from "@kitware/vtk.js/Rendering/Core/Renderer";

import { pixelsToCanvas } from "./place";

/** From now on all stacks are drawn so. */
export function drawOnProcessor(): void {
  setUseCPURendering(false);
  registerViewportType({
    type: "mip-processor-stack",
    ViewportClass: ProcessorStack,
    resolveClass: ({ type }) => (type === Enums.ViewportType.STACK ? ProcessorStack : undefined),
  });
}

interface Painted {
  image: Types.IImage;
  tone: string;
}

class ProcessorStack extends StackViewport {
  /** Asked for by StackViewport's constructor already, before fields are set. */
  declare private cameraHolder: ReturnType<typeof vtkRenderer.newInstance> | undefined;
  private readonly picture = document.createElement("canvas");
  private painted: Painted | null = null;
  private pixels: ImageData | null = null;

  constructor(properties: Types.ViewportInput) {
    super(properties);
    this.customRenderViewportToCanvas = () => this.draw();
    this.resize = () => this.fit();
    this.fit();
  }

  static override get useCustomRenderingPipeline(): boolean {
    return true;
  }

  /** vtk.js's renderer holds the camera and knows its geometry; it is never asked to render. */
  override getRendererContextPool() {
    this.cameraHolder ??= vtkRenderer.newInstance();
    return this.cameraHolder;
  }

  private fit(): void {
    const ratio = window.devicePixelRatio || 1;
    this.sWidth = this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.sHeight = this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
  }

  private draw() {
    const { canvas, element, id: viewportId, renderingEngineId, viewportStatus } = this;
    const context = canvas.getContext("2d");
    const image = this.getCornerstoneImage();
    // A JPEG 2000 that can't be decoded comes as an image without a pixel.
    const place = image && image.columns > 0 && image.rows > 0 && pixelsToCanvas(this);
    if (context) {
      context.resetTransform();
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
    if (context && place) {
      this.paint(image);
      context.setTransform(place);
      context.imageSmoothingEnabled = this.getProperties().interpolationType !== Enums.InterpolationType.NEAREST;
      context.drawImage(this.picture, 0, 0);
    }
    return { canvas, element, viewportId, renderingEngineId, viewportStatus };
  }

  /** The image as it is seen through the window, pixel by pixel; not again while neither changes. */
  private paint(image: Types.IImage): void {
    const { voiRange, invert, VOILUTFunction } = this.getProperties();
    const { lower, upper } = voiRange ?? { lower: 0, upper: 255 };
    const tone = [lower, upper, invert, VOILUTFunction].join();
    if (this.painted?.image === image && this.painted.tone === tone) return;
    const { columns, rows } = image;
    if (this.pixels?.width !== columns || this.pixels.height !== rows) {
      this.picture.width = columns;
      this.picture.height = rows;
      this.pixels = new ImageData(columns, rows);
    }
    const isSigmoid = VOILUTFunction === Enums.VOILUTFunctionType.SAMPLED_SIGMOID;
    fill(this.pixels.data, image.voxelManager?.getScalarData() ?? [], (isSigmoid ? sigmoid : linear)(lower, upper, Boolean(invert)));
    this.picture.getContext("2d")?.putImageData(this.pixels, 0, 0);
    this.painted = { image, tone };
  }
}

type Tone = (value: number) => number;

/** Black at ``lower``, white at ``upper`` (PS3.3 C.11.2.1.2); the array that it is written to clamps. */
function linear(lower: number, upper: number, isInverted: boolean): Tone {
  const slope = (isInverted ? -255 : 255) / (upper - lower || 1);
  const offset = isInverted ? 255 - lower * slope : -lower * slope;
  return (value) => value * slope + offset;
}

/** PS3.3 C.11.2.1.3.1. */
function sigmoid(lower: number, upper: number, isInverted: boolean): Tone {
  const steepness = ((isInverted ? 4 : -4) / (upper - lower || 1));
  const center = (lower + upper) / 2;
  return (value) => 255 / (1 + Math.exp((value - center) * steepness));
}

function fill(into: Uint8ClampedArray, from: ArrayLike<number>, tone: Tone): void {
  const samples = Math.round((4 * from.length) / into.length);
  const [green, blue] = samples >= 3 ? [1, 2] : [0, 0];
  for (let at = 0, pixel = 0; pixel < into.length; at += samples, pixel += 4) {
    into[pixel] = tone(from[at] as number);
    into[pixel + 1] = green ? tone(from[at + green] as number) : (into[pixel] as number);
    into[pixel + 2] = blue ? tone(from[at + blue] as number) : (into[pixel] as number);
    into[pixel + 3] = 255;
  }
}
