/// <reference types="vite/client" />
interface ImportMetaEnv {
  readonly REACT_APP_API_BASE?: string;
  readonly REACT_APP_PACS_BASE?: string;
  readonly REACT_APP_WS_ENDPOINT?: string;
}
