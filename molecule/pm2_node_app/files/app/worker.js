// Stands for a queue consumer: writes a line where it is allowed to.
"use strict";
require("dotenv").config({ quiet: true });
console.log(`worker of ${process.env.APP_RELEASE} says ${process.env.GREETING}`);
setInterval(() => {}, 1000);
