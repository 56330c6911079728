/** The platform's own names for what its API takes and answers, from its OpenAPI description. */
import type { components } from "./openapi";

type Schemas = components["schemas"];

export type Algorithm = Schemas["Algorithm"];
type AlgorithmSpec = Schemas["AlgorithmSpec"];
/** What is sent to register one; what is left out has the API's default. */
export type NewAlgorithm = Pick<AlgorithmSpec, "algo_id" | "image_uri" | "cpu" | "memory" | "command"> &
  Partial<AlgorithmSpec>;
export type AlgorithmPatch = Schemas["AlgorithmPatch"];
/** A job as a list has it. */
export type Job = Schemas["JobAnswer"];
/** A job by itself, with its parameters. */
export type OneJob = Schemas["OneJobAnswer"];
export type JobStatus = Schemas["JobStatus"];
export type ProcessRequest = Schemas["ProcessRequest"];
export type PacsRef = Schemas["PacsRef"];
export type SignedOutput = Schemas["SignedOutput"];
/** An algorithm as its users see it. */
export type Offer = Schemas["OfferAnswer"];
export type ParametersSchema = NonNullable<Offer["parameters"]>;
export type Parameter = ParametersSchema["properties"][string];
export type Statistics = Schemas["StatisticsAnswer"];
export type LogPage = Schemas["LogAnswer"];

/** A series as the PACS API tells it; ``date`` is YYYYMMDD. That API is no part of the OpenAPI description. */
export interface Series {
  study_id: string;
  series_id: string;
  date: string | null;
  modality: string | null;
  study_description: string | null;
  series_description: string | null;
  images: number | null;
}

/** One image of a series, with a link that opens it for a quarter of an hour. */
export interface ImageLink {
  url: string;
  key: string;
}

/** What the WebSocket sends when a job has ended. */
export interface ResultMessage {
  job_id: string;
  algo_id: string;
  client_id: string;
  status: JobStatus;
  error?: Job["error"];
}
