-- pgq._quote_columns(expression, columns): put quotes around bare words that are the exact name of a column with
--            upper-case letters, which SQL would fold, or of one that is a reserved word
--   note     such expressions are in triggers of old: the C functions compared words with columns exactly. Words that
--            expressions need, as case and from, are a column only where they are the whole expression.
--            A word followed by ( is a function. Strings, comments and quoted names stay as they are; where a
--            string ends depends on standard_conforming_strings
create or replace function pgq._quote_columns(i_expression text, i_columns text[]) returns text as $$
declare
    l_grammar constant text[] := '{all,and,any,array,as,asymmetric,both,case,cast,collate,distinct,else,end,false,for,from,
                                   having,ilike,in,is,isnull,leading,like,not,notnull,"null",or,overlaps,select,similar,
                                   some,symmetric,then,to,trailing,true,union,using,when,where}';
    l_rest  text := i_expression;
    l_out   text := '';
    l_token text;
    l_quote text[];
begin
    -- quote_ident() is the cheaper question, though it quotes more words
    l_quote := array(select c from unnest(i_columns) c
                      where strpos(i_expression, c) > 0
                        and (c collate "C" ~ '[A-Z]'
                             or quote_ident(c) = '"' || c || '"' and exists (
                                    select 1 from pg_get_keywords() k
                                     where k.word = c and k.catcode in ('R', 'T')
                                       and (c = btrim(i_expression, E' \t\n\r') or c <> all (l_grammar)))));
    if l_quote = '{}' then
        return i_expression;
    end if;
    while l_rest <> '' loop
        l_token := coalesce(
            substring(l_rest from E'^[[:alpha:]_\\u0080-\\U0010ffff][[:alnum:]_$\\u0080-\\U0010ffff]*'),
            substring(l_rest from '^''(?:[^'']|'''')*'''),
            substring(l_rest from '^"(?:[^"]|"")*"'),
            substring(l_rest from E'^--[^\n]*'),
            substring(l_rest from '^/[*].*?[*]/'),
            substring(l_rest from '^[0-9]+'),
            left(l_rest, 1));
        if lower(l_token) = 'e' and substr(l_rest, 2, 1) = ''''
            or left(l_token, 1) = '''' and current_setting('standard_conforming_strings') = 'off'
        then
            l_token := coalesce(substring(l_rest from E'^[eE]?''(?:[^''\\\\]|\\\\.|'''')*'''), l_token);
        elsif l_token = '$' then
            l_token := coalesce(
                (select left(l_rest, strpos(substr(l_rest, length(d.tag) + 1), d.tag) + 2 * length(d.tag) - 1)
                   from (select substring(l_rest from '^[$](?:[[:alpha:]_][[:alnum:]_]*)?[$]') as tag) d
                  where strpos(substr(l_rest, length(d.tag) + 1), d.tag) > 0),
                l_token);
        end if;
        l_rest := substr(l_rest, length(l_token) + 1);
        l_out := l_out || case
            when l_token = any (l_quote) and l_rest !~ '^[[:space:]]*[(]'
                and not (l_token in ('order', 'group') and l_rest ~* '^[[:space:]]+by[[:space:]]')
            then quote_ident(l_token) else l_token end;
    end loop;
    return l_out;
end;
$$ language plpgsql stable;
