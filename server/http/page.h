/* The files of the web page, which are part of the binary. server/web/embed.py writes the table at
 * build time; everything in it is read-only and lives as long as the process. */
#ifndef TNL_HTTP_PAGE_H
#define TNL_HTTP_PAGE_H

#include <stddef.h>

typedef struct srv_page_file {
    const char *name; /* as in /ui/NAME; the first file is the page itself */
    const char *type; /* content type */
    const char *etag; /* of the bytes, quoted */
    const unsigned char *data;
    size_t size;
} srv_page_file;

extern const srv_page_file srv_page_files[];
extern const size_t srv_page_file_count;

#endif
