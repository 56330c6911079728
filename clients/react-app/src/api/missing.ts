/** Routes that the platform is getting, typed by hand until its OpenAPI description has them. */

export interface QueueFacts {
  /** 1 is next; null unless the job is QUEUED. */
  queue_position?: number | null;
  /** Median run of the algorithm's recent jobs, in seconds. */
  expected_s?: number | null;
}

export interface Parameter {
  type: "string" | "number" | "integer" | "boolean";
  title?: string;
  description?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  enum?: (string | number)[];
}

export interface ParameterSchema {
  type?: "object";
  properties?: Record<string, Parameter>;
  required?: string[];
}

export interface PublicAlgorithm {
  algo_id: string;
  status: string;
  description?: string | null;
  parameters?: ParameterSchema | null;
  outputs?: string[];
  queue_depth?: number;
  workers?: number;
}

export interface StatisticsBucket {
  at: string;
  done: number;
  failed: number;
}

export interface Statistics {
  queue_depth: number;
  running: number;
  desired_workers: number;
  oldest_wait_s: number | null;
  median_s: number | null;
  p95_s: number | null;
  buckets: StatisticsBucket[];
}

export interface LogPage {
  lines: string[];
  cursor?: string | null;
}
