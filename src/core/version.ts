/** What this build is. build.ts writes both constants in; run from source there is neither. */
declare const DMQ_BUILD_VERSION: string;
declare const DMQ_BUILD_COMMIT: string;

/** The version of package.json, `0.0.0-source` when run from source. */
export const VERSION: string = typeof DMQ_BUILD_VERSION === "string" ? DMQ_BUILD_VERSION : "0.0.0-source";

/** Abbreviated commit of the build, empty if it is not known. */
export const COMMIT: string = typeof DMQ_BUILD_COMMIT === "string" ? DMQ_BUILD_COMMIT : "";
