// Unpacks the browser of @sparticuz/chromium into the folder for temporary files.
import chromium from "@sparticuz/chromium";

await chromium.executablePath();
