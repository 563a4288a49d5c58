/* The parts of /openapi.json. Private to openapi*.c. */
#ifndef TNL_HTTP_OPENAPI_H
#define TNL_HTTP_OPENAPI_H

#include "server/http/json/json_out.h"

/* JSON written with ' for ", so that it reads well in C; none of it holds an apostrophe. */
void srv_openapi_put(srv_buf *b, const char *text);

/* "Name":{..},"Name":{..} of answers and of the parts that field tables do not describe. */
void srv_openapi_schemas(srv_buf *b);

#endif
