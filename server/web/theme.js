// Before anything is painted: the theme that was chosen here last, if it is not the system's.
"use strict";
try {
    const theme = JSON.parse(localStorage.getItem("tnl.theme"));
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (e) {
    // storage is off: the system decides
}
