// Unpacks the browser of @sparticuz/chromium into the folder for temporary files, and prints its path.
import chromium from "@sparticuz/chromium";

console.log(await chromium.executablePath());
