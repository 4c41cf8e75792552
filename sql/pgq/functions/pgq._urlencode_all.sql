-- pgq._urlencode_all(text): the part of pgq._urlencode for text that needs it
--   note     a replace for each different character, not a step for each character; where there are too many
--            of them, as in long Chinese text, every byte is encoded and the safe ones are put back
create or replace function pgq._urlencode_all(i_text text) returns text as $$
declare
    l_text  text := replace(replace(replace(replace(i_text, '%', '%25'), '+', '%2b'), ' ', '+'), ':', '%3a');
    l_rest  text := regexp_replace(l_text collate "C", '[A-Za-z0-9_.%+-]+', '', 'g');
    l_char  text;
begin
    for l_nr in 1..100 loop
        if l_rest = '' then
            return l_text;
        end if;
        l_char := left(l_rest, 1);
        l_text := replace(l_text, l_char,
            regexp_replace(encode(convert_to(l_char, getdatabaseencoding()), 'hex'), '..', E'%\\&', 'g'));
        l_rest := replace(l_rest, l_char, '');
    end loop;
    l_text := regexp_replace(encode(convert_to(i_text, getdatabaseencoding()), 'hex'), '..', E'%\\&', 'g');
    foreach l_char in array
        string_to_array('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.-', null)
    loop
        l_text := replace(l_text, '%' || encode(convert_to(l_char, 'UTF8'), 'hex'), l_char);
    end loop;
    return replace(l_text, '%20', '+');
end;
$$ language plpgsql immutable strict;
