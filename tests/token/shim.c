/* A PKCS#11 module for tests: passes every call on to another module, and misbehaves as a control file orders.
 *
 * SHIM_MODULE   path of the module that does the work
 * SHIM_CONTROL  file with one order per line, read anew at each call:
 *   hang FUNCTION            never return
 *   crash FUNCTION           abort
 *   crash-once FUNCTION      abort, but delete the control file first
 *   crash-after FUNCTION     do it, and abort
 *   pretend FUNCTION         return success without doing anything (C_DestroyObject)
 *   logout FUNCTION          drop the login first, without telling (C_FindObjectsInit)
 *   fail FUNCTION CODE       return the code (hexadecimal) without doing anything
 *   fail-after FUNCTION CODE do it, and return the code all the same
 *   flags BITS               add to the token's flags (hexadecimal)
 *   bool ATTRIBUTE VALUE     lie about a boolean attribute of private keys (hexadecimal, 0 or 1)
 *   short-modulus            lie about the modulus of private keys: only its first half is told
 *   show-private             show a private exponent
 *   show-secret ATTRIBUTE    show 32 bytes as a secret attribute of private keys
 *   untold ATTRIBUTE         refuse to tell an attribute of private keys
 *   wrong-signature          change one bit of every signature
 *   unlisted MECHANISM       do not list a mechanism (hexadecimal)
 *   refuse-order ATTRIBUTE   refuse key generation whose private template has the attribute, as a TPM does
 *   no-making MECHANISM      list a mechanism that makes key pairs, but refuse to use it
 *   say TEXT                 print to standard output and standard error
 *   C_DestroyObject misbehaves, and is noted, for objects in the token alone, not for those of a session.
 * SHIM_CALLS    file to which the name of each called function is added
 *
 * Types are spelled out, so that no PKCS#11 headers are needed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
typedef unsigned long ulong_t;
typedef struct { ulong_t type; void *value; ulong_t length; } attribute;
typedef struct { unsigned char version[2]; void *function[68]; } function_list;

enum { INITIALIZE = 0, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, GET_MECHANISM_LIST = 7, OPEN_SESSION = 12, LOGIN = 18,
       LOGOUT = 19,
       CREATE_OBJECT = 20, DESTROY_OBJECT = 22, COPY_OBJECT = 21, GET_ATTRIBUTE_VALUE = 24,
       SET_ATTRIBUTE_VALUE = 25, FIND_OBJECTS_INIT = 26, DECRYPT_INIT = 33, SIGN = 43,
       GENERATE_KEY_PAIR = 59, WRAP_KEY = 60 };

static function_list *real, ours;

static int order(const char *word, const char *name, char *rest, size_t size)
{
    char line[256];
    int found = 0;
    const char *path = getenv("SHIM_CONTROL");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        char first[64] = "", second[64] = "";
        int end = 0;
        line[strcspn(line, "\n")] = 0;
        sscanf(line, "%63s %63s %n", first, second, &end);
        if (strcmp(first, word)) continue;
        if (name && strcmp(second, name)) continue;
        if (rest) snprintf(rest, size, "%s", name ? (end ? line + end : "") : line + strlen(word) + (line[strlen(word)] != 0));
        found = 1;
    }
    fclose(file);
    return found;
}

/* Returns nonzero if the function must fail, with the code to fail with. */
static rv before(const char *name)
{
    char text[128];
    const char *path = getenv("SHIM_CALLS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) { fprintf(file, "%s\n", name); fclose(file); }
    if (order("say", NULL, text, sizeof text)) {
        printf("%s\n", text); fflush(stdout);
        fprintf(stderr, "%s\n", text);
    }
    if (order("crash-once", name, NULL, 0)) { unlink(getenv("SHIM_CONTROL")); abort(); }
    if (order("crash", name, NULL, 0)) abort();
    while (order("hang", name, NULL, 0)) sleep(1);
    if (order("fail", name, text, sizeof text)) return strtoul(text, NULL, 16);
    return 0;
}

static rv after(const char *name, rv result)
{
    char text[128];
    if (order("crash-after", name, NULL, 0)) abort();
    return order("fail-after", name, text, sizeof text) ? strtoul(text, NULL, 16) : result;
}

#define CALL(number, ...) ((rv (*)(__VA_ARGS__))real->function[number])
#define BEGIN(name) do { rv failure = before(name); if (failure) return failure; } while (0)

static rv initialize(void *arguments) { BEGIN("C_Initialize"); return CALL(INITIALIZE, void *)(arguments); }

static rv get_token_info(ulong_t slot, unsigned char *info)
{
    char text[64];
    BEGIN("C_GetTokenInfo");
    rv result = CALL(GET_TOKEN_INFO, ulong_t, void *)(slot, info);
    if (!result && order("flags", NULL, text, sizeof text)) {
        ulong_t flags;
        memcpy(&flags, info + 96, sizeof flags);   /* label 32, manufacturer 32, model 16, serial number 16 */
        flags |= strtoul(text, NULL, 16);
        memcpy(info + 96, &flags, sizeof flags);
    }
    return result;
}

static rv get_mechanism_list(ulong_t slot, ulong_t *list, ulong_t *count)
{
    rv result = CALL(GET_MECHANISM_LIST, ulong_t, ulong_t *, ulong_t *)(slot, list, count);
    if (!result && list)
        for (ulong_t i = 0; i < *count; i++) {
            char name[32];
            snprintf(name, sizeof name, "%lx", list[i]);
            if (order("unlisted", name, NULL, 0)) list[i] = 0x80000abcUL;
        }
    return result;
}

static rv open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session)
{
    BEGIN("C_OpenSession");
    return CALL(OPEN_SESSION, ulong_t, ulong_t, void *, void *, ulong_t *)(slot, flags, application, notify, session);
}

static rv login(ulong_t session, ulong_t user, void *pin, ulong_t length)
{
    BEGIN("C_Login");
    return CALL(LOGIN, ulong_t, ulong_t, void *, ulong_t)(session, user, pin, length);
}

static rv create_object(ulong_t session, attribute *template, ulong_t count, ulong_t *object)
{
    BEGIN("C_CreateObject");
    return CALL(CREATE_OBJECT, ulong_t, attribute *, ulong_t, ulong_t *)(session, template, count, object);
}

static rv copy_object(ulong_t session, ulong_t object, attribute *template, ulong_t count, ulong_t *copy)
{
    BEGIN("C_CopyObject");
    return CALL(COPY_OBJECT, ulong_t, ulong_t, attribute *, ulong_t, ulong_t *)(session, object, template, count, copy);
}

static rv set_attribute_value(ulong_t session, ulong_t object, attribute *template, ulong_t count)
{
    BEGIN("C_SetAttributeValue");
    return CALL(SET_ATTRIBUTE_VALUE, ulong_t, ulong_t, attribute *, ulong_t)(session, object, template, count);
}

static rv decrypt_init(ulong_t session, void *mechanism, ulong_t key)
{
    BEGIN("C_DecryptInit");
    return CALL(DECRYPT_INIT, ulong_t, void *, ulong_t)(session, mechanism, key);
}

static rv destroy_object(ulong_t session, ulong_t object)
{
    unsigned char in_token = 1;
    attribute query = {0x1, &in_token, sizeof in_token};
    CALL(GET_ATTRIBUTE_VALUE, ulong_t, ulong_t, attribute *, ulong_t)(session, object, &query, 1);
    if (!in_token) return CALL(DESTROY_OBJECT, ulong_t, ulong_t)(session, object);
    BEGIN("C_DestroyObject");
    if (order("pretend", "C_DestroyObject", NULL, 0)) return 0;
    return after("C_DestroyObject", CALL(DESTROY_OBJECT, ulong_t, ulong_t)(session, object));
}

static int is_private_key(ulong_t session, ulong_t object)
{
    ulong_t class = 0;
    attribute query = {0x0, &class, sizeof class};
    return !CALL(GET_ATTRIBUTE_VALUE, ulong_t, ulong_t, attribute *, ulong_t)(session, object, &query, 1) && class == 3;
}

static rv get_attribute_value(ulong_t session, ulong_t object, attribute *template, ulong_t count)
{
    char name[32], text[32];
    BEGIN("C_GetAttributeValue");
    rv result = CALL(GET_ATTRIBUTE_VALUE, ulong_t, ulong_t, attribute *, ulong_t)(session, object, template, count);
    if (count != 1 || !is_private_key(session, object)) return result;
    snprintf(name, sizeof name, "%lx", template->type);
    if (template->type == 0x123 && order("show-private", NULL, NULL, 0)) {
        if (template->value) memset(template->value, 0x55, 256);
        template->length = 256;
        return 0;
    }
    if (order("show-secret", name, NULL, 0)) {
        if (template->value) memset(template->value, 0x55, 32);
        template->length = 32;
        return 0;
    }
    if (order("untold", name, NULL, 0)) { template->length = (ulong_t)-1; return 0x12; }
    if (!result && template->value && order("bool", name, text, sizeof text))
        *(unsigned char *)template->value = (unsigned char)atoi(text);
    if (!result && template->value && template->type == 0x120 && order("short-modulus", NULL, NULL, 0))
        template->length = 128;
    return result;
}

static rv find_objects_init(ulong_t session, attribute *template, ulong_t count)
{
    BEGIN("C_FindObjectsInit");
    if (order("logout", "C_FindObjectsInit", NULL, 0)) CALL(LOGOUT, ulong_t)(session);
    return CALL(FIND_OBJECTS_INIT, ulong_t, attribute *, ulong_t)(session, template, count);
}

static rv sign(ulong_t session, void *data, ulong_t size, unsigned char *signature, ulong_t *length)
{
    BEGIN("C_Sign");
    rv result = CALL(SIGN, ulong_t, void *, ulong_t, void *, ulong_t *)(session, data, size, signature, length);
    if (!result && signature && order("wrong-signature", NULL, NULL, 0)) signature[10] ^= 1;
    return result;
}

static rv generate_key_pair(ulong_t session, void *mechanism, attribute *public, ulong_t public_count,
                            attribute *private, ulong_t private_count, ulong_t *public_key, ulong_t *private_key)
{
    char name[32];
    BEGIN("C_GenerateKeyPair");
    snprintf(name, sizeof name, "%lx", *(ulong_t *)mechanism);
    if (order("no-making", name, NULL, 0)) return 0x70;
    for (ulong_t i = 0; i < private_count; i++) {
        snprintf(name, sizeof name, "%lx", private[i].type);
        if (order("refuse-order", name, NULL, 0)) return 0x5;
    }
    return after("C_GenerateKeyPair",
                 CALL(GENERATE_KEY_PAIR, ulong_t, void *, attribute *, ulong_t, attribute *, ulong_t, ulong_t *,
                      ulong_t *)(session, mechanism, public, public_count, private, private_count, public_key,
                                 private_key));
}

static rv wrap_key(ulong_t session, void *mechanism, ulong_t wrapping, ulong_t key, void *wrapped, ulong_t *length)
{
    BEGIN("C_WrapKey");
    return CALL(WRAP_KEY, ulong_t, void *, ulong_t, ulong_t, void *, ulong_t *)(session, mechanism, wrapping, key,
                                                                               wrapped, length);
}

rv C_GetFunctionList(function_list **list)
{
    if (!real) {
        void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
        rv (*get)(function_list **) = module ? (rv (*)(function_list **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real)) return 0x5;
        ours = *real;
        ours.function[INITIALIZE] = (void *)initialize;
        ours.function[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
        ours.function[GET_TOKEN_INFO] = (void *)get_token_info;
        ours.function[GET_MECHANISM_LIST] = (void *)get_mechanism_list;
        ours.function[OPEN_SESSION] = (void *)open_session;
        ours.function[LOGIN] = (void *)login;
        ours.function[CREATE_OBJECT] = (void *)create_object;
        ours.function[COPY_OBJECT] = (void *)copy_object;
        ours.function[SET_ATTRIBUTE_VALUE] = (void *)set_attribute_value;
        ours.function[DECRYPT_INIT] = (void *)decrypt_init;
        ours.function[DESTROY_OBJECT] = (void *)destroy_object;
        ours.function[GET_ATTRIBUTE_VALUE] = (void *)get_attribute_value;
        ours.function[FIND_OBJECTS_INIT] = (void *)find_objects_init;
        ours.function[SIGN] = (void *)sign;
        ours.function[GENERATE_KEY_PAIR] = (void *)generate_key_pair;
        ours.function[WRAP_KEY] = (void *)wrap_key;
    }
    *list = &ours;
    return 0;
}
