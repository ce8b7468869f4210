/* answer(n) is seven times n. */
#include <node_api.h>

static napi_value answer(napi_env env, napi_callback_info info) {
    size_t count = 1;
    napi_value argument, result;
    int32_t number;
    if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count < 1) return NULL;
    if (napi_get_value_int32(env, argument, &number) != napi_ok) return NULL;
    if (napi_create_int32(env, number * 7, &result) != napi_ok) return NULL;
    return result;
}

static napi_value init(napi_env env, napi_value exports) {
    napi_value function;
    if (napi_create_function(env, "answer", NAPI_AUTO_LENGTH, answer, NULL, &function) != napi_ok) return NULL;
    if (napi_set_named_property(env, exports, "answer", function) != napi_ok) return NULL;
    return exports;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
